"""`file_search` in `client.responses`: search vector stores, and cite them in the answer.

A small model is a poor judge of when to search and for what. So the search is always made, before
the model answers, with the user's last message; the model reads the numbered passages.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from burnish.rag.store import Passage
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import RouteNotAllowed
from burnish.serve.responses.protocol import (
    FileCitation,
    FileSearchItem,
    FileSearchResult,
    FileSearchTool,
)
from burnish.serve.vector_stores.protocol import SearchVectorStore
from burnish.serve.vector_stores.service import STORE, VectorStoreHit, VectorStores

_MARK = re.compile(r"\[(\d{1,3})\]")


@dataclass(frozen=True, slots=True)
class FileSearchCall:
    """A search and its hits, best first."""

    query: str
    hits: Sequence[VectorStoreHit]
    id: str = field(default_factory=lambda: f"fs_{token_hex(24)}")

    @property
    def passages(self) -> list[Passage]:
        """The passages for the model to read."""
        return [hit.passage for hit in self.hits]

    def item(self, with_results: bool) -> FileSearchItem:
        """Return the output item of the search."""
        results: list[FileSearchResult] = [
            {
                "file_id": hit.passage.file,
                "filename": hit.filename,
                "score": hit.score,
                "text": hit.passage.text,
                "attributes": hit.file.body["attributes"],
            }
            for hit in self.hits
        ]
        return {
            "id": self.id,
            "type": "file_search_call",
            "status": "completed",
            "queries": [self.query],
            "results": results if with_results else None,
        }

    def citations(self, text: str) -> list[FileCitation]:
        """Return the file of each `[n]` in an answer. The marks stay in the text."""
        return [
            {
                "type": "file_citation",
                "index": mark.start(),
                "file_id": self.hits[number].passage.file,
                "filename": self.hits[number].filename,
            }
            for mark in _MARK.finditer(text)
            if 0 <= (number := int(mark[1]) - 1) < len(self.hits)
        ]


def search_stores(
    vector_stores: VectorStores,
    tools: Sequence[FileSearchTool],
    items: Sequence[Mapping[str, Any]],
) -> FileSearchCall | None:
    """Search for the user's last message; None without a tool or a message.

    Raises ObjectNotFound for an unknown vector store, and RouteNotAllowed for a key that may not
    read vector stores by their own route either.
    """
    if tools and not CURRENT_KEY.get().allows_route("vector_stores"):
        raise RouteNotAllowed("This key may not use `vector_stores`.", "tools", "route_not_allowed")
    query = _last_user_text(items)
    if not tools or not query:
        return None
    hits: list[VectorStoreHit] = []
    for tool in tools:
        request = SearchVectorStore(
            query=query,
            max_num_results=tool.max_num_results,
            filters=tool.filters,
            ranking_options=tool.ranking_options,
        )
        objects = vector_stores.workspace.objects
        stores = [objects.find(STORE, name) for name in tool.vector_store_ids]
        candidates = [hit for store in stores for hit in vector_stores.search(store, request)]
        hits += sorted(candidates, key=lambda hit: -hit.score)[: tool.max_num_results]
    return FileSearchCall(query, hits)


def _last_user_text(items: Sequence[Mapping[str, Any]]) -> str:
    for item in reversed(items):
        if item.get("role") == "user":
            content = item.get("content") or ""
            if isinstance(content, str):
                return content.strip()
            return "\n".join(part.get("text") or "" for part in content).strip()
    return ""
