"""Vector stores: attach files, search their passages.

Each store has its own index. A background task adds a file to it, whole or not at all.
"""

import shutil
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from burnish.rag.documents import Document
from burnish.rag.readers import read_document
from burnish.rag.search import rank_by_meaning, reciprocal_rank_fusion
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage
from burnish.serve.errors import RequestError
from burnish.serve.inference.embeddings import Embedders
from burnish.serve.store.files import StoredFileNotFound
from burnish.serve.store.objects import ObjectNotFound
from burnish.serve.store.schema import File, StoredObject
from burnish.serve.store.workspace import Workspace
from burnish.serve.vector_stores.protocol import (
    CreateVectorStore,
    SearchResultObject,
    SearchVectorStore,
    UpdateVectorStore,
)

STORE, FILE, BATCH = "vector_store", "vector_store_file", "vector_store_file_batch"
_SEARCH_DEPTH = 50
#: The share in a fused score of a passage that is first in one ranking.
_TOP_RANK_SCORE = 1 / 61


@dataclass(frozen=True, slots=True)
class VectorStoreHit:
    """A passage that was found, its score (0 to 1) and its file."""

    passage: Passage
    score: float
    file: StoredObject
    filename: str

    def describe(self) -> SearchResultObject:
        """Describe the hit."""
        return SearchResultObject(
            file_id=self.passage.file,
            filename=self.filename,
            score=self.score,
            attributes=self.file.body["attributes"],
            content=[{"type": "text", "text": self.passage.text}],
        )


@dataclass(frozen=True, slots=True)
class VectorStores:
    """The vector stores of a workspace."""

    workspace: Workspace
    embedders: Embedders

    def create(self, request: CreateVectorStore) -> StoredObject:
        """Create a vector store. Raises RequestError without an embedding model."""
        if not (names := self.embedders.names()):
            raise RequestError(
                "There is no embedding model. Get one: burnish pull all-minilm-l6-v2"
            )
        for file in request.file_ids:
            self._require_file(file, "file_ids")
        now = int(time.time())
        body = {"name": request.name or "", "metadata": request.metadata, "last_active_at": now,
                "embedder": names[0]}  # fmt: skip
        store_id = f"vs_{token_hex(12)}"
        store = StoredObject(id=store_id, kind=STORE, created_at=now, status="open", body=body)
        self.workspace.objects.add(store)
        for file in dict.fromkeys(request.file_ids):
            self.attach(store_id, file, None, "file_ids")
        return store

    def attach(
        self, store: str, file: str, attributes: Any, param: str = "file_id"
    ) -> StoredObject:
        """Attach a file, if it is not attached yet. Raises ObjectNotFound, RequestError."""
        self.workspace.objects.find(STORE, store)
        size = self._require_file(file, param).bytes
        try:
            return self.find_file(store, file)
        except ObjectNotFound:
            body = {"file_id": file, "attributes": attributes or {}}
            attached = StoredObject(
                id=f"{store}:{file}", kind=FILE, parent=store, status="in_progress", body=body
            )
            return self.workspace.objects.add(attached, size)

    def attach_all(self, store: str, files: Sequence[str], attributes: Any) -> StoredObject:
        """Attach several files as a batch."""
        for file in files:
            self._require_file(file, "file_ids")
        for file in files:
            self.attach(store, file, attributes, "file_ids")
        batch_id, body = f"vsfb_{token_hex(12)}", {"file_ids": list(files)}
        return self.workspace.objects.add(
            StoredObject(id=batch_id, kind=BATCH, parent=store, status="open", body=body)
        )

    def find_file(self, store: str, file: str) -> StoredObject:
        """Find a file of a store. Raises ObjectNotFound."""
        try:
            return self.workspace.objects.find(FILE, f"{store}:{file}", store)
        except ObjectNotFound as error:
            raise ObjectNotFound(FILE, file) from error

    def files_in_batch(self, batch: StoredObject) -> list[StoredObject]:
        """Return the files of a batch that are still in its store."""
        file_ids = set(batch.body["file_ids"])
        files = self.workspace.objects.all(FILE, batch.parent)
        return [file for file in files if file.body["file_id"] in file_ids]

    def index_bytes(self, store: str) -> int:
        """Return the size of a store's index."""
        index = self.index_path(store)
        return index.stat().st_size if index.exists() else 0

    def index_path(self, store: str) -> Path:
        """Return the file of a store's index."""
        return self.workspace.home / "vector_stores" / store / "index.db"

    def detach(self, store: str, file: str) -> None:
        """Detach a file from a store; the file itself stays. Raises ObjectNotFound."""
        self.workspace.objects.delete(FILE, self.find_file(store, file).id)
        if self.index_path(store).exists():
            index = SqliteStore(self.index_path(store))
            index.remove([file])
            index.close()

    def update(self, store: str, request: UpdateVectorStore) -> StoredObject:
        """Change a store's name or metadata. Raises ObjectNotFound."""
        with self.workspace.objects.editing(STORE, store) as record:
            record.body = {**record.body, **request.model_dump(exclude_unset=True)}
        return record

    def touch(self, store: str) -> None:
        """Record that a store was used now. Raises ObjectNotFound."""
        with self.workspace.objects.editing(STORE, store) as record:
            record.body = {**record.body, "last_active_at": int(time.time())}

    def update_attributes(self, store: str, file: str, attributes: Any) -> StoredObject:
        """Replace the attributes of a file. Raises ObjectNotFound."""
        with self.workspace.objects.editing(FILE, self.find_file(store, file).id) as record:
            record.body = {**record.body, "attributes": attributes or {}}
        return record

    def cancel_batch(self, batch: StoredObject) -> None:
        """Cancel the files of a batch that are not indexed yet."""
        for file in self.files_in_batch(batch):
            with self.workspace.objects.editing(FILE, file.id) as record:
                if record.status == "in_progress":
                    record.status = "cancelled"

    def delete(self, store: str) -> None:
        """Delete a store; its files stay. Raises ObjectNotFound."""
        self.workspace.objects.delete(STORE, store)
        shutil.rmtree(self.index_path(store).parent, ignore_errors=True)

    def parse_file(self, file: File) -> Document:
        """Read the text of a file, by its name's suffix. Raises BadData."""
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / _link_name(file.filename)
            link.symlink_to(self.workspace.files.path(file))
            return read_document(link)

    def search(self, store: StoredObject, request: SearchVectorStore) -> list[VectorStoreHit]:
        """Return the passages of a store that match best, best first."""
        files = {file.body["file_id"]: file for file in self.workspace.objects.all(FILE, store.id)}
        filters = request.filters
        searched = [
            file_id
            for file_id, file in files.items()
            if not filters or filters.matches(file.body["attributes"])
        ]
        if not searched or not self.index_path(store.id).exists():
            return []
        index = SqliteStore(self.index_path(store.id))
        try:
            best = self._rank_passages(index, store, request, searched)
            passages = index.passages([number for number, _ in best])
        finally:
            index.close()
        threshold = (request.ranking_options and request.ranking_options.score_threshold) or 0.0
        return [
            VectorStoreHit(passage, score, files[passage.file], self._find_filename(passage))
            for (_, score), passage in zip(best, passages, strict=True)
            if score >= threshold
        ]

    def _rank_passages(
        self,
        index: SqliteStore,
        store: StoredObject,
        request: SearchVectorStore,
        files: Collection[str],
    ) -> list[tuple[int, float]]:
        """Fuse the rankings by meaning and by words of every query: (passage, score).

        Where the embedder doesn't know the script, words alone rank, and the best has a score of 1.
        """
        embedder = self.embedders.open(store.body["embedder"])
        vectors = self.embedders.encode(store.body["embedder"], request.queries)
        depth = max(_SEARCH_DEPTH, request.max_num_results)
        scores: dict[int, float] = {}
        for query, vector in zip(request.queries, vectors, strict=True):
            rankings = (
                rank_by_meaning(index, embedder, query, vector, depth, files),
                index.search_words(query, depth, files),
            )
            fused = reciprocal_rank_fusion(
                [[number for number, _ in ranking] for ranking in rankings]
            )
            top = _TOP_RANK_SCORE * (2 if rankings[0] else 1)
            for number, score in fused:
                scores[number] = max(scores.get(number, 0.0), score / top)
        ordered = sorted(scores.items(), key=lambda item: -item[1])
        return ordered[: request.max_num_results]

    def _find_filename(self, passage: Passage) -> str:
        try:
            return self.workspace.files.find(passage.file).filename
        except StoredFileNotFound:
            return passage.title

    def _require_file(self, name: str, param: str) -> File:
        try:
            return self.workspace.files.find(name)
        except StoredFileNotFound as error:
            raise RequestError(f"{name} does not exist.", param, "file_not_found") from error


def _link_name(filename: str) -> str:
    """Return a name for a link to a file, with its stem and suffix as far as a folder takes them.

    A stem has at most 200 bytes; `..` and the like have none.
    """
    path = Path(filename.replace("\0", ""))
    stem = path.stem.strip(".").encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
    suffix = path.suffix if path.suffix.isascii() else ""
    return f"{stem or 'file'}{suffix[:16]}"
