"""An index in a folder: an SQLite database as the source of truth, and a word index that follows
it.

A document's passages, vectors and sign bits are written in one transaction, so that a kill leaves
each document whole or absent (docs/decisions/0005, 0008).
"""

import json
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from burnish.core.errors import BadData
from burnish.rag.binary_vectors import BinaryVectors, binarize
from burnish.rag.bm25 import ANALYSIS, IndexChanges, IndexState, WordIndex
from burnish.rag.store import Passage, Ranking

#: Candidates by sign bits whose exact vectors are compared: a multiple of the wanted number, and a
#: minimum.
_SPARE, _LEAST = 10, 500

_TABLES = """
CREATE TABLE facts (value TEXT NOT NULL);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, title TEXT NOT NULL
);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents,
    headings TEXT NOT NULL, page INTEGER, begins INTEGER NOT NULL, ends INTEGER NOT NULL,
    place TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX passages_of_document ON passages (document);
"""
#: Second layout: sign bits, a row per document, whose passages have consecutive ids; the removed
#: documents, for the word index; and a name by which that identifies its database.
_SIGNS = """
CREATE TABLE signs (
    document INTEGER PRIMARY KEY, first INTEGER NOT NULL, passages INTEGER NOT NULL,
    bits BLOB NOT NULL
);
CREATE TABLE gone (turn INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL);
CREATE TABLE own (name TEXT NOT NULL);
INSERT INTO own VALUES (hex(randomblob(8)));
PRAGMA user_version = 2;
"""
#: Drops the word index of the first layout.
_OLD_WORDS = """
DROP TRIGGER word_in;
DROP TRIGGER word_out;
DROP TABLE words;
"""
#: A lone surrogate can stand in JSON but not in UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")


class SqliteStore:
    """The store in a folder; created when its database is first opened.

    A database of the first layout, with its words inside, is upgraded.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.database = sqlite3.connect(path, isolation_level=None, timeout=60)
            # Three passages with their vectors per page, instead of one with the default of 4096
            # bytes.
            self.database.execute("PRAGMA page_size = 8192")
            self.database.execute("PRAGMA journal_mode = WAL")
            self.database.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                if not self.database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                    self._run(_TABLES + _SIGNS)
                elif self._query_number("PRAGMA user_version") < 2:
                    self._upgrade()
        except sqlite3.DatabaseError as error:
            raise BadData(
                f"{path} is not an index that can be read: {error}", "Remove it and index again."
            ) from error
        self._signs: tuple[int, BinaryVectors] | None = None
        self._words = WordIndex(path.parent / "words")

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def facts(self) -> dict[str, Any]:
        """Return the recorded facts about the index; empty if it is new."""
        row = self.database.execute("SELECT value FROM facts").fetchone()
        return dict(json.loads(row[0])) if row else {}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Record the facts about the index."""
        with self._transaction():
            self.database.execute("DELETE FROM facts")
            self.database.execute("INSERT INTO facts VALUES (?)", (json.dumps(dict(facts)),))

    def digests(self) -> dict[str, str]:
        """Return file → content hash of the indexed files."""
        return dict(self.database.execute("SELECT file, digest FROM documents"))

    def replace(self, file: str, digest: str, passages: Sequence[Passage], vectors: Any) -> None:
        """Replace a file's passages in one transaction."""
        with self._transaction():
            self._delete_file(file)
            title = passages[0].title if passages else ""
            document = self.database.execute(
                "INSERT INTO documents (file, digest, title) VALUES (?, ?, ?)",
                (file, digest, _replace_unstorable(title)),
            ).lastrowid
            first = self._last_id("passages") + 1
            self.database.executemany(
                "INSERT INTO passages (document, headings, page, begins, ends, place, text, vector)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        document, json.dumps(passage.headings), passage.page, passage.start,
                        passage.end, _replace_unstorable(passage.section),
                        _replace_unstorable(passage.text),
                        np.asarray(vector, dtype=np.float32).tobytes(),
                    )
                    for passage, vector in zip(passages, vectors, strict=True)
                ],
            )  # fmt: skip
            if passages:
                self._write_binary_vectors(int(document or 0), first, np.asarray(vectors))

    def remove(self, files: Collection[str]) -> None:
        """Remove these files in one transaction."""
        with self._transaction():
            for file in files:
                self._delete_file(file)

    def refresh(self) -> None:
        """Bring the word index to the database's state."""
        self._words.update(self._read_state(), self._changes_since)

    def count(self) -> int:
        """Return the number of passages."""
        return self._query_number("SELECT count(*) FROM passages")

    def search_vectors(
        self, vector: np.ndarray, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """Return the passages with the nearest vectors by dot product, of these files only.

        Exact among those whose signs agree best: 10 * `most`, at least 500.
        """
        documents = None if files is None else np.array(self._document_ids(files), dtype=np.int64)
        near = self._binary_vectors().nearest(vector, max(_SPARE * most, _LEAST), documents)
        rows = self.database.execute(
            "SELECT id, vector FROM passages WHERE id IN (SELECT value FROM json_each(?)) "
            "ORDER BY id",
            (json.dumps(near.tolist()),),
        ).fetchall()
        vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.float32)
        scores = vectors.reshape(len(rows), len(vector)) @ vector
        nearest = np.argsort(-scores, kind="stable")[:most]
        return [(int(rows[index][0]), float(scores[index])) for index in nearest]

    def search_words(
        self, question: str, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """Return the passages with the highest BM25, of these files only."""
        self.refresh()
        documents = None if files is None else self._document_ids(files)
        return self._words.search(_replace_unstorable(question), most, documents)

    def passages(self, ids: Sequence[int]) -> list[Passage]:
        """Return passages by id, in that order."""
        rows = self.database.execute(
            "SELECT passages.id, file, title, headings, page, begins, ends, text FROM passages "
            "JOIN documents ON documents.id = document "
            "WHERE passages.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        by_id = {
            passage_id: Passage(file, title, tuple(json.loads(headings)), page, begins, ends, text)
            for passage_id, file, title, headings, page, begins, ends, text in rows
        }
        return [by_id[passage_id] for passage_id in ids]

    def _binary_vectors(self) -> BinaryVectors:
        """Return all sign bits, read again when another process has changed the file."""
        version = self._query_number("PRAGMA data_version") + self.database.total_changes
        if self._signs is None or self._signs[0] != version:
            rows = self.database.execute(
                "SELECT document, first, passages, bits FROM signs ORDER BY first"
            ).fetchall()
            self._signs = (version, BinaryVectors.from_rows(rows))
        return self._signs[1]

    def _write_binary_vectors(self, document: int, first: int, vectors: np.ndarray) -> None:
        row = (document, first, len(vectors), binarize(vectors).tobytes())
        self.database.execute("INSERT INTO signs VALUES (?, ?, ?, ?)", row)

    def _read_state(self) -> IndexState:
        """Return the database's state."""
        name = self.database.execute("SELECT name FROM own").fetchone()[0]
        return IndexState(name, self._last_id("passages"), self._last_id("gone"), ANALYSIS)

    def _changes_since(self, then: IndexState) -> IndexChanges:
        """Return what was added and removed since. Concurrent additions may be reported twice."""
        now = self._read_state()
        gone = self.database.execute("SELECT document FROM gone WHERE turn > ?", (then.gone,))
        added = self.database.execute(
            "SELECT count(*) FROM passages WHERE id > ?", (then.passage,)
        ).fetchone()[0]
        rows = self.database.execute(
            "SELECT id, document, place || char(10) || text FROM passages WHERE id > ? ORDER BY id",
            (then.passage,),
        )
        return IndexChanges(now, [document for (document,) in gone], rows, added)

    def _last_id(self, table: str) -> int:
        """Return the last id that a table assigned, even if the row is gone."""
        query = f"SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = '{table}'"
        return self._query_number(query)

    def _query_number(self, query: str) -> int:
        return int(self.database.execute(query).fetchone()[0])

    def _upgrade(self) -> None:
        """Upgrade from the first layout: words leave the database, sign bits are added."""
        self._run(_OLD_WORDS + _SIGNS)
        documents = self.database.execute("SELECT id FROM documents").fetchall()
        for (document,) in documents:
            rows = self.database.execute(
                "SELECT id, vector FROM passages WHERE document = ? ORDER BY id", (document,)
            ).fetchall()
            if rows:
                vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.float32)
                self._write_binary_vectors(document, rows[0][0], vectors.reshape(len(rows), -1))

    def _run(self, script: str) -> None:
        """Run the statements of a script within the open transaction."""
        for statement in filter(str.strip, script.split(";")):
            self.database.execute(statement)

    def _document_ids(self, files: Collection[str]) -> list[int]:
        known = self.database.execute("SELECT file, id FROM documents")
        return [document_id for file, document_id in known if file in files]

    def _delete_file(self, file: str) -> None:
        row = self.database.execute("SELECT id FROM documents WHERE file = ?", (file,)).fetchone()
        if row:
            self.database.execute("DELETE FROM passages WHERE document = ?", row)
            self.database.execute("DELETE FROM signs WHERE document = ?", row)
            self.database.execute("DELETE FROM documents WHERE id = ?", row)
            self.database.execute("INSERT INTO gone (document) VALUES (?)", row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")


def _replace_unstorable(text: str) -> str:
    """Replace characters that UTF-8 can't encode, one for one."""
    return _SURROGATE.sub("�", text)
