"""Vector stores: files of a client, cut and embedded by the retrieval engine, and searched.

Each store is an index of its own. A file comes into it as an errand, whole or not at all.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from burnish.core.errors import BurnishError
from burnish.rag.chunking import chunk_document
from burnish.rag.documents import Document
from burnish.rag.indexing import embedded_text
from burnish.rag.readers import read_document
from burnish.rag.search import reciprocal_rank_fusion
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage
from burnish.serve.background.tasks import BackgroundTask
from burnish.serve.errors import RequestError
from burnish.serve.inference.embeddings import Embedders
from burnish.serve.store.files import StoredFileNotFound
from burnish.serve.store.objects import ObjectNotFound
from burnish.serve.store.schema import File, StoredObject
from burnish.serve.store.workspace import Workspace
from burnish.serve.vector_stores.protocol import CreateVectorStore, SearchVectorStore

STORE, FILE, BATCH = "vector_store", "vector_store_file", "vector_store_file_batch"
#: Tokens of a passage; headings need room beside it.
_PASSAGE_TOKENS = 200
_SEARCH_DEPTH = 50
#: What a passage scores that is the first of both rankings.
_TOP_FUSED_SCORE = 2 / 61


@dataclass(frozen=True, slots=True)
class VectorStoreHit:
    """A passage that was found, its score (0 to 1), and the file that it is of."""

    passage: Passage
    score: float
    file: StoredObject
    filename: str

    @property
    def body(self) -> dict[str, Any]:
        """As clients read it."""
        return {
            "file_id": self.passage.file,
            "filename": self.filename,
            "score": self.score,
            "attributes": self.file.body["attributes"],
            "content": [{"type": "text", "text": self.passage.text}],
        }


@dataclass(frozen=True, slots=True)
class VectorStores:
    """The vector stores of a desk."""

    workspace: Workspace
    embedders: Embedders

    def create(self, request: CreateVectorStore) -> StoredObject:
        """A new one with the files it begins with. Raises Refused without an embedding model."""
        if not (names := self.embedders.names()):
            raise RequestError("There is no embedding model here: burnish pull all-minilm-l6-v2")
        for file in request.file_ids:
            self._require_file(file, "file_ids")
        now = int(time.time())
        body = {"name": request.name or "", "metadata": request.metadata, "last_active_at": now,
                "embedder": names[0]}  # fmt: skip
        own = f"vs_{token_hex(12)}"
        store = StoredObject(id=own, kind=STORE, created_at=now, status="open", body=body)
        self.workspace.objects.add(store)
        for file in dict.fromkeys(request.file_ids):
            self.attach(own, file, None, "file_ids")
        return store

    def attach(
        self, store: str, file: str, attributes: Any, param: str = "file_id"
    ) -> StoredObject:
        """Let a file come in; one that is there already stays. Raises NoSuchRecord, Refused."""
        self.workspace.objects.find(STORE, store)
        size = self._require_file(file, param).bytes
        try:
            return self.find_file(store, file)
        except ObjectNotFound:
            body = {"file_id": file, "attributes": attributes or {}}
            own = f"{store}:{file}"
            return self.workspace.objects.add(
                StoredObject(id=own, kind=FILE, parent=store, status="in_progress", body=body), size
            )

    def attach_all(self, store: str, files: Sequence[str], attributes: Any) -> StoredObject:
        """Let several files come in; the batch knows which."""
        for file in files:
            self._require_file(file, "file_ids")
        for file in files:
            self.attach(store, file, attributes, "file_ids")
        own, body = f"vsfb_{token_hex(12)}", {"file_ids": list(files)}
        return self.workspace.objects.add(
            StoredObject(id=own, kind=BATCH, parent=store, status="open", body=body)
        )

    def find_file(self, store: str, file: str) -> StoredObject:
        """A file of a store. Raises NoSuchRecord."""
        try:
            return self.workspace.objects.find(FILE, f"{store}:{file}", store)
        except ObjectNotFound as error:
            raise ObjectNotFound(FILE, file) from error

    def files_in_batch(self, batch: StoredObject) -> list[StoredObject]:
        """The files of a batch that are still in its store."""
        wanted = set(batch.body["file_ids"])
        files = self.workspace.objects.all(FILE, batch.parent)
        return [file for file in files if file.body["file_id"] in wanted]

    def index_bytes(self, store: str) -> int:
        """Bytes of a store's index."""
        index = self.index_path(store)
        return index.stat().st_size if index.exists() else 0

    def index_path(self, store: str) -> Path:
        """The file of a store's index."""
        return self.workspace.home / "vector_stores" / store / "index.db"

    def detach(self, store: str, file: str) -> None:
        """Take a file out of a store; the file itself stays. Raises NoSuchRecord."""
        self.workspace.objects.delete(FILE, self.find_file(store, file).id)
        if self.index_path(store).exists():
            index = SqliteStore(self.index_path(store))
            index.remove([file])
            index.close()

    def delete(self, store: str) -> None:
        """Forget a store; its files stay. Raises NoSuchRecord."""
        self.workspace.objects.delete(STORE, store)
        shutil.rmtree(self.index_path(store).parent, ignore_errors=True)

    def parse_file(self, file: File) -> Document:
        """What a file says, read by the ending of its name. Raises BadData."""
        with tempfile.TemporaryDirectory() as folder:
            name = Path(file.filename)
            named = Path(folder) / f"{name.stem[:60]}{name.suffix[:16]}"
            named.symlink_to(self.workspace.files.path(file))
            return read_document(named)

    def search(self, store: StoredObject, request: SearchVectorStore) -> list[VectorStoreHit]:
        """The best passages of a store, best first."""
        files = {file.body["file_id"]: file for file in self.workspace.objects.all(FILE, store.id)}
        filters = request.filters
        wanted = [
            own
            for own, file in files.items()
            if not filters or filters.matches(file.body["attributes"])
        ]
        if not wanted or not self.index_path(store.id).exists():
            return []
        index = SqliteStore(self.index_path(store.id))
        try:
            best = self._rank_passages(index, store, request, wanted)
            passages = index.passages([own for own, _ in best])
        finally:
            index.close()
        least = (request.ranking_options and request.ranking_options.score_threshold) or 0.0
        return [
            VectorStoreHit(passage, score, files[passage.file], self._find_filename(passage))
            for (_, score), passage in zip(best, passages, strict=True)
            if score >= least
        ]

    def _rank_passages(
        self,
        index: SqliteStore,
        store: StoredObject,
        request: SearchVectorStore,
        wanted: Collection[str],
    ) -> list[tuple[int, float]]:
        vectors = self.embedders.encode(store.body["embedder"], request.queries)
        depth = max(_SEARCH_DEPTH, request.max_num_results)
        scores: dict[int, float] = {}
        for query, vector in zip(request.queries, vectors, strict=True):
            rankings = (
                index.search_vectors(vector, depth, wanted),
                index.search_words(query, depth, wanted),
            )
            fused = reciprocal_rank_fusion([[own for own, _ in some] for some in rankings])
            for own, score in fused:
                scores[own] = max(scores.get(own, 0.0), score / _TOP_FUSED_SCORE)
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


@dataclass(frozen=True, slots=True)
class IndexingWorker:
    """Brings files into their stores."""

    stores: VectorStores

    @property
    def task(self) -> BackgroundTask:
        """The work, for the thread that does it."""
        return BackgroundTask(FILE, ("in_progress",), self.index_file)

    def index_file(self, file: StoredObject, should_stop: Callable[[], bool]) -> None:
        """Read, cut, embed and put down one file; may be called again for the same one."""
        try:
            size = self._embed_file(file, should_stop)
        except BurnishError as error:
            said = {"code": "unsupported_file", "message": str(error)}
            self._finish(file, "failed", last_error=said)
            return
        if size is not None:
            self._finish(file, "completed", usage_bytes=size)

    def _embed_file(self, file: StoredObject, should_stop: Callable[[], bool]) -> int | None:
        """Bytes of the passages and vectors; None if it is to stop."""
        vectors, own = self.stores, file.body["file_id"]
        store = vectors.workspace.objects.find(STORE, str(file.parent))
        embedder = vectors.embedders.open(store.body["embedder"])
        document = vectors.parse_file(vectors.workspace.files.find(own))
        with vectors.embedders.lock:
            blocks = chunk_document(
                document, embedder.token_spans, min(_PASSAGE_TOKENS, embedder.max_tokens)
            )
        passages = [
            Passage(own, document.title, block.headings, block.page, block.start, block.end,
                    document.text[block.start : block.end])
            for block in blocks
        ]  # fmt: skip
        rows: list[Any] = []
        for begin in range(0, len(passages), 32):
            if should_stop():
                return None
            texts = [embedded_text(passage) for passage in passages[begin : begin + 32]]
            rows += list(vectors.embedders.encode(store.body["embedder"], texts))
        path = vectors.index_path(store.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        index = SqliteStore(path)
        index.replace(own, file.id, passages, rows)
        index.close()
        words = sum(len(passage.text.encode()) for passage in passages)
        return words + sum(int(row.nbytes) for row in rows)

    def _finish(self, file: StoredObject, status: str, **facts: Any) -> None:
        """Put down how it went; a file that was taken out meanwhile leaves nothing behind."""
        try:
            with self.stores.workspace.objects.editing(FILE, file.id) as held:
                if held.status == "in_progress":
                    held.status, held.body = status, {**held.body, **facts}
        except ObjectNotFound:
            path = self.stores.index_path(str(file.parent))
            if path.exists():
                index = SqliteStore(path)
                index.remove([file.body["file_id"]])
                index.close()
