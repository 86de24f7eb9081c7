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
from burnish.rag.chunking import chunks
from burnish.rag.documents import Document
from burnish.rag.indexing import embedded_text
from burnish.rag.readers import read_document
from burnish.rag.search import reciprocal_rank_fusion
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage
from burnish.serve.background.tasks import Errand
from burnish.serve.errors import Refused
from burnish.serve.inference.embeddings import Embedders
from burnish.serve.store.files import NoSuchFile
from burnish.serve.store.objects import NoSuchRecord
from burnish.serve.store.schema import File, Record
from burnish.serve.store.workspace import Desk
from burnish.serve.vector_stores.protocol import CreateStore, Search

STORE, FILE, BATCH = "vector_store", "vector_store_file", "vector_store_file_batch"
#: Tokens of a passage; headings need room beside it.
_PASSAGE = 200
_DEPTH = 50
#: What a passage scores that is the first of both rankings.
_BEST = 2 / 61


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found, its score (0 to 1), and the file that it is of."""

    passage: Passage
    score: float
    file: Record
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
class Vectors:
    """The vector stores of a desk."""

    desk: Desk
    embedders: Embedders

    def create(self, asked: CreateStore) -> Record:
        """A new one with the files it begins with. Raises Refused without an embedding model."""
        if not (names := self.embedders.names()):
            raise Refused("There is no embedding model here: burnish pull all-minilm-l6-v2")
        for file in asked.file_ids:
            self._file(file, "file_ids")
        now = int(time.time())
        body = {"name": asked.name or "", "metadata": asked.metadata, "last_active_at": now,
                "embedder": names[0]}  # fmt: skip
        own = f"vs_{token_hex(12)}"
        store = Record(id=own, kind=STORE, created_at=now, status="open", body=body)
        self.desk.records.add(store)
        for file in dict.fromkeys(asked.file_ids):
            self.attach(own, file, None, "file_ids")
        return store

    def attach(self, store: str, file: str, attributes: Any, param: str = "file_id") -> Record:
        """Let a file come in; one that is there already stays. Raises NoSuchRecord, Refused."""
        self.desk.records.find(STORE, store)
        size = self._file(file, param).bytes
        try:
            return self.file(store, file)
        except NoSuchRecord:
            body = {"file_id": file, "attributes": attributes or {}}
            own = f"{store}:{file}"
            return self.desk.records.add(
                Record(id=own, kind=FILE, parent=store, status="in_progress", body=body), size
            )

    def attach_all(self, store: str, files: Sequence[str], attributes: Any) -> Record:
        """Let several files come in; the batch knows which."""
        for file in files:
            self._file(file, "file_ids")
        for file in files:
            self.attach(store, file, attributes, "file_ids")
        own, body = f"vsfb_{token_hex(12)}", {"file_ids": list(files)}
        return self.desk.records.add(
            Record(id=own, kind=BATCH, parent=store, status="open", body=body)
        )

    def file(self, store: str, file: str) -> Record:
        """A file of a store. Raises NoSuchRecord."""
        try:
            return self.desk.records.find(FILE, f"{store}:{file}", store)
        except NoSuchRecord as error:
            raise NoSuchRecord(FILE, file) from error

    def files_of(self, batch: Record) -> list[Record]:
        """The files of a batch that are still in its store."""
        wanted = set(batch.body["file_ids"])
        files = self.desk.records.all(FILE, batch.parent)
        return [file for file in files if file.body["file_id"] in wanted]

    def size(self, store: str) -> int:
        """Bytes of a store's index."""
        index = self.index(store)
        return index.stat().st_size if index.exists() else 0

    def index(self, store: str) -> Path:
        """The file of a store's index."""
        return self.desk.home / "vector_stores" / store / "index.db"

    def detach(self, store: str, file: str) -> None:
        """Take a file out of a store; the file itself stays. Raises NoSuchRecord."""
        self.desk.records.delete(FILE, self.file(store, file).id)
        if self.index(store).exists():
            index = SqliteStore(self.index(store))
            index.remove([file])
            index.close()

    def delete(self, store: str) -> None:
        """Forget a store; its files stay. Raises NoSuchRecord."""
        self.desk.records.delete(STORE, store)
        shutil.rmtree(self.index(store).parent, ignore_errors=True)

    def read(self, file: File) -> Document:
        """What a file says, read by the ending of its name. Raises BadData."""
        with tempfile.TemporaryDirectory() as folder:
            name = Path(file.filename)
            named = Path(folder) / f"{name.stem[:60]}{name.suffix[:16]}"
            named.symlink_to(self.desk.files.path(file))
            return read_document(named)

    def search(self, store: Record, asked: Search) -> list[Hit]:
        """The best passages of a store, best first."""
        files = {file.body["file_id"]: file for file in self.desk.records.all(FILE, store.id)}
        wanted = [own for own, file in files.items()
                  if not asked.filters or asked.filters.fits(file.body["attributes"])]  # fmt: skip
        if not wanted or not self.index(store.id).exists():
            return []
        index = SqliteStore(self.index(store.id))
        try:
            best = self._best(index, store, asked, wanted)
            passages = index.passages([own for own, _ in best])
        finally:
            index.close()
        least = (asked.ranking_options and asked.ranking_options.score_threshold) or 0.0
        return [
            Hit(passage, score, files[passage.file], self._filename(passage))
            for (_, score), passage in zip(best, passages, strict=True)
            if score >= least
        ]

    def _best(
        self, index: SqliteStore, store: Record, asked: Search, wanted: Collection[str]
    ) -> list[tuple[int, float]]:
        vectors = self.embedders.encode(store.body["embedder"], asked.queries)
        depth = max(_DEPTH, asked.max_num_results)
        scores: dict[int, float] = {}
        for query, vector in zip(asked.queries, vectors, strict=True):
            rankings = (
                index.by_vector(vector, depth, wanted),
                index.by_words(query, depth, wanted),
            )
            fused = reciprocal_rank_fusion([[own for own, _ in some] for some in rankings])
            for own, score in fused:
                scores[own] = max(scores.get(own, 0.0), score / _BEST)
        ordered = sorted(scores.items(), key=lambda item: -item[1])
        return ordered[: asked.max_num_results]

    def _filename(self, passage: Passage) -> str:
        try:
            return self.desk.files.find(passage.file).filename
        except NoSuchFile:
            return passage.title

    def _file(self, name: str, param: str) -> File:
        try:
            return self.desk.files.find(name)
        except NoSuchFile as error:
            raise Refused(f"{name} does not exist.", param, "file_not_found") from error


@dataclass(frozen=True, slots=True)
class VectorWork:
    """Brings files into their stores."""

    vectors: Vectors

    @property
    def errand(self) -> Errand:
        """The work, for the thread that does it."""
        return Errand(FILE, ("in_progress",), self.work)

    def work(self, file: Record, is_to_stop: Callable[[], bool]) -> None:
        """Read, cut, embed and put down one file; may be called again for the same one."""
        try:
            size = self._bring_in(file, is_to_stop)
        except BurnishError as error:
            said = {"code": "unsupported_file", "message": str(error)}
            self._end(file, "failed", last_error=said)
            return
        if size is not None:
            self._end(file, "completed", usage_bytes=size)

    def _bring_in(self, file: Record, is_to_stop: Callable[[], bool]) -> int | None:
        """Bytes of the passages and vectors; None if it is to stop."""
        vectors, own = self.vectors, file.body["file_id"]
        store = vectors.desk.records.find(STORE, str(file.parent))
        embedder = vectors.embedders.open(store.body["embedder"])
        document = vectors.read(vectors.desk.files.find(own))
        with vectors.embedders.turn:
            blocks = chunks(document, embedder.token_spans, min(_PASSAGE, embedder.max_tokens))
        passages = [
            Passage(own, document.title, block.headings, block.page, block.start, block.end,
                    document.text[block.start : block.end])
            for block in blocks
        ]  # fmt: skip
        rows: list[Any] = []
        for begin in range(0, len(passages), 32):
            if is_to_stop():
                return None
            texts = [embedded_text(passage) for passage in passages[begin : begin + 32]]
            rows += list(vectors.embedders.encode(store.body["embedder"], texts))
        path = vectors.index(store.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        index = SqliteStore(path)
        index.replace(own, file.id, passages, rows)
        index.close()
        words = sum(len(passage.text.encode()) for passage in passages)
        return words + sum(int(row.nbytes) for row in rows)

    def _end(self, file: Record, status: str, **facts: Any) -> None:
        """Put down how it went; a file that was taken out meanwhile leaves nothing behind."""
        try:
            with self.vectors.desk.records.changing(FILE, file.id) as held:
                if held.status == "in_progress":
                    held.status, held.body = status, {**held.body, **facts}
        except NoSuchRecord:
            path = self.vectors.index(str(file.parent))
            if path.exists():
                index = SqliteStore(path)
                index.remove([file.body["file_id"]])
                index.close()
