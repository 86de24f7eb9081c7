"""Background task that indexes the files of vector stores."""

from dataclasses import dataclass
from typing import Any

from burnish.core.errors import BurnishError
from burnish.rag.chunking import chunk_document
from burnish.rag.indexing import embedded_text
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage
from burnish.serve.background.tasks import BackgroundTask, Turn
from burnish.serve.store.jobs import make_storable
from burnish.serve.store.objects import ObjectNotFound
from burnish.serve.store.schema import StoredObject
from burnish.serve.vector_stores.service import FILE, STORE, VectorStores

#: Tokens of a passage; its headings are embedded with it.
_PASSAGE_TOKENS = 200
_EMBEDDING_BATCH = 32


@dataclass(frozen=True, slots=True)
class IndexingWorker:
    """Indexes attached files."""

    stores: VectorStores

    @property
    def task(self) -> BackgroundTask:
        """The task to run in the background."""
        return BackgroundTask(FILE, ("in_progress",), self.index_file, self.fail)

    def index_file(self, file: StoredObject, turn: Turn) -> None:
        """Read, chunk, embed and index one file. Repeating it for the same file is safe."""
        try:
            size = self._embed_file(file, turn)
        except BurnishError as error:
            last_error = {"code": "unsupported_file", "message": make_storable(str(error))}
            self._finish(file, "failed", last_error=last_error)
            return
        if size is not None:
            self._finish(file, "completed", usage_bytes=size)

    def fail(self, file: StoredObject, reason: str) -> None:
        """End a file that cannot be indexed."""
        last_error = {"code": "server_error", "message": reason}
        self._finish(file, "failed", last_error=last_error)

    def _embed_file(self, file: StoredObject, turn: Turn) -> int | None:
        """Return the bytes of the passages and vectors; None if it was stopped."""
        stores, file_id = self.stores, file.body["file_id"]
        store = stores.workspace.objects.find(STORE, str(file.parent))
        embedder = stores.embedders.open(store.body["embedder"])
        document = stores.parse_file(stores.workspace.files.find(file_id))
        with stores.embedders.lock:
            chunks = chunk_document(
                document, embedder.token_spans, min(_PASSAGE_TOKENS, embedder.max_tokens)
            )
        passages = [
            Passage(file_id, document.title, chunk.headings, chunk.page, chunk.start, chunk.end,
                    document.text[chunk.start : chunk.end])
            for chunk in chunks
        ]  # fmt: skip
        vectors: list[Any] = []
        for begin in range(0, len(passages), _EMBEDDING_BATCH):
            if turn.should_stop():
                return None
            batch = passages[begin : begin + _EMBEDDING_BATCH]
            texts = [embedded_text(passage) for passage in batch]
            vectors += list(stores.embedders.encode(store.body["embedder"], texts))
        path = stores.index_path(store.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        index = SqliteStore(path)
        index.replace(file_id, file.id, passages, vectors)
        index.close()
        text_bytes = sum(len(passage.text.encode()) for passage in passages)
        return text_bytes + sum(int(vector.nbytes) for vector in vectors)

    def _finish(self, file: StoredObject, status: str, **facts: Any) -> None:
        """Record the outcome; a file that was detached meanwhile is removed from the index."""
        try:
            with self.stores.workspace.objects.editing(FILE, file.id) as record:
                if record.status == "in_progress":
                    record.status, record.body = status, {**record.body, **facts}
        except ObjectNotFound:
            path = self.stores.index_path(str(file.parent))
            if path.exists():
                index = SqliteStore(path)
                index.remove([file.body["file_id"]])
                index.close()
