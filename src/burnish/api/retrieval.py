"""Answer from documents: `index`, `search`, `ask`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from burnish.api.inputs import Source
from burnish.preflight import check_known

if TYPE_CHECKING:
    from burnish.rag.answer import CitedAnswer
    from burnish.rag.indexing import IndexReport
    from burnish.rag.search import SearchHits


def index(
    sources: Sequence[Source],
    name: str,
    embedder: str | None = None,
    chunk_tokens: int | None = None,
) -> IndexReport:
    """Make or renew an index so that it holds what folders and files hold now.

    Without sources, those of last time. Raises NotFound, BadData, BadRecipe.
    """
    from burnish.rag.indexing import build_index

    wanted = {"embedder": embedder, "chunk_tokens": chunk_tokens}
    changes = {key: value for key, value in wanted.items() if value is not None}
    return build_index([Path(source) for source in sources], name, changes)


def search(
    name: str, question: str, k: int = 5, files: str | None = None, rerank: str = ""
) -> SearchHits:
    """Return the `k` best passages of an index, of files that match the pattern `files`.

    `rerank` names a cross-encoder that orders the best anew. The list's `note` says if words alone
    ranked passages, because the embedder doesn't know their script. Raises NotFound, BadRecipe.
    """
    from burnish.rag.search import open_index

    return open_index(name, rerank).search(question, k, files)


class AskOptions(TypedDict, total=False):
    """How a question is asked: see `rag.answer.AnswerSettings`."""

    k: int
    files: str | None
    least_similarity: float
    max_new_tokens: int
    least_support: float


def ask(
    model: str, question: str, index: str, rerank: str = "", **options: Unpack[AskOptions]
) -> CitedAnswer:
    """Answer a question from the passages of an index, with citations.

    `rerank` names a cross-encoder that orders the passages. Raises NotFound, BadRecipe.
    """
    check_known(model)
    from burnish.engines.local.open import open_local_engine
    from burnish.rag.answer import AnswerSettings
    from burnish.rag.answer import ask as ask_engine
    from burnish.rag.search import open_index

    opened = open_index(index, rerank)
    return ask_engine(open_local_engine(model), opened, question, AnswerSettings(**options))
