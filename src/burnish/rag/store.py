"""Where passages and their vectors are kept: a small protocol, and SQLite behind it.

One file holds all: passages, their words (FTS5: BM25 over Porter stems) and their vectors. A
document's passages come and go in one transaction, so that a kill leaves each document whole or
absent. Vectors are compared exactly, all of them, in one matrix product (docs/decisions/0005).
"""

import json
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from burnish.core.errors import BadData

#: Passage id and score, best first; higher is better.
Ranking = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a file: characters `start` to `end` of its text (rag.documents).

    `headings` are those above it, outermost first; `page` counts from 1, in PDFs only.
    """

    file: str
    title: str
    headings: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str

    @property
    def place(self) -> str:
        """Title and headings as one line: `Skua > Lights`."""
        return " > ".join(dict.fromkeys((self.title, *self.headings)))

    @property
    def source(self) -> str:
        """What a citation says: `skua.md, page 3: Skua > Lights (characters 120 to 340)`."""
        page = f", page {self.page}" if self.page else ""
        return f"{self.file}{page}: {self.place} (characters {self.start} to {self.end})"


class Store(Protocol):
    """What the search needs of a store; a vector server can stand here."""

    def facts(self) -> dict[str, Any]:
        """What was put down about the index; empty if it is new."""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Put it down."""

    def digests(self) -> dict[str, str]:
        """File → hash of the content whose passages are here."""

    def replace(self, file: str, digest: str, passages: Sequence[Passage], vectors: Any) -> None:
        """Take a file's passages for those of before, whole or not at all.

        `vectors` is an array of float32 of shape (passages, width).
        """

    def remove(self, files: Collection[str]) -> None:
        """Forget these files."""

    def count(self) -> int:
        """How many passages there are."""

    def by_vector(
        self, vector: np.ndarray, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """The passages whose vectors are nearest by dot product, of these files only."""

    def by_words(self, question: str, most: int, files: Collection[str] | None = None) -> Ranking:
        """The passages with the highest BM25, of these files only."""

    def passages(self, ids: Sequence[int]) -> list[Passage]:
        """Passages by id, in that order."""


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
CREATE VIRTUAL TABLE words USING fts5 (
    place, text, content='passages', content_rowid='id', tokenize='porter unicode61'
);
CREATE TRIGGER word_in AFTER INSERT ON passages BEGIN
    INSERT INTO words (rowid, place, text) VALUES (new.id, new.place, new.text);
END;
CREATE TRIGGER word_out AFTER DELETE ON passages BEGIN
    INSERT INTO words (words, rowid, place, text) VALUES ('delete', old.id, old.place, old.text);
END;
"""
#: A lone surrogate can stand in JSON but not in UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")


class SqliteStore:
    """A store in one SQLite file; made when it is opened for the first time."""

    def __init__(self, path: Path) -> None:
        try:
            self.database = sqlite3.connect(path, isolation_level=None, timeout=60)
            self.database.execute("PRAGMA journal_mode = WAL")
            self.database.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                if not self.database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                    for statement in _statements(_TABLES):
                        self.database.execute(statement)
        except sqlite3.DatabaseError as error:
            raise BadData(
                f"{path} is not an index that can be read: {error}", "Remove it and index again."
            ) from error
        self._matrix: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    def facts(self) -> dict[str, Any]:
        """What was put down about the index; empty if it is new."""
        found = self.database.execute("SELECT value FROM facts").fetchone()
        return dict(json.loads(found[0])) if found else {}

    def note(self, facts: Mapping[str, Any]) -> None:
        """Put it down."""
        with self._transaction():
            self.database.execute("DELETE FROM facts")
            self.database.execute("INSERT INTO facts VALUES (?)", (json.dumps(dict(facts)),))

    def digests(self) -> dict[str, str]:
        """File → hash of the content whose passages are here."""
        return dict(self.database.execute("SELECT file, digest FROM documents"))

    def replace(self, file: str, digest: str, passages: Sequence[Passage], vectors: Any) -> None:
        """Take a file's passages for those of before, whole or not at all."""
        with self._transaction():
            self._forget(file)
            title = passages[0].title if passages else ""
            document = self.database.execute(
                "INSERT INTO documents (file, digest, title) VALUES (?, ?, ?)",
                (file, digest, _storable(title)),
            ).lastrowid
            self.database.executemany(
                "INSERT INTO passages (document, headings, page, begins, ends, place, text, vector)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        document, json.dumps(passage.headings), passage.page, passage.start,
                        passage.end, _storable(passage.place), _storable(passage.text),
                        np.asarray(vector, dtype=np.float32).tobytes(),
                    )
                    for passage, vector in zip(passages, vectors, strict=True)
                ],
            )  # fmt: skip

    def remove(self, files: Collection[str]) -> None:
        """Forget these files, all or none."""
        with self._transaction():
            for file in files:
                self._forget(file)

    def count(self) -> int:
        """How many passages there are."""
        return int(self.database.execute("SELECT count(*) FROM passages").fetchone()[0])

    def by_vector(
        self, vector: np.ndarray, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """The passages whose vectors are nearest by dot product, of these files only."""
        ids, documents, matrix = self._vectors()
        if files is not None:
            kept = np.isin(documents, self._document_ids(files))
            ids, matrix = ids[kept], matrix[kept]
        scores = matrix @ vector
        nearest = np.argsort(-scores, kind="stable")[:most]
        return [(int(ids[place]), float(scores[place])) for place in nearest]

    def by_words(self, question: str, most: int, files: Collection[str] | None = None) -> Ranking:
        """The passages with the highest BM25 (Robertson & Zaragoza 2009), of these files only."""
        words = dict.fromkeys(re.findall(r"\w+", _storable(question).lower()))
        if not words:
            return []
        # FTS5 gives a BM25 that is better the lower it is.
        query = "SELECT rowid, -rank FROM words WHERE words MATCH ?"
        values: list[Any] = [" OR ".join(f'"{word}"' for word in words)]
        if files is not None:
            query += (
                " AND rowid IN (SELECT id FROM passages WHERE document IN "
                "(SELECT value FROM json_each(?)))"
            )
            values.append(json.dumps(self._document_ids(files)))
        rows = self.database.execute(f"{query} ORDER BY rank, rowid LIMIT ?", (*values, most))
        return [(int(own), float(score)) for own, score in rows]

    def passages(self, ids: Sequence[int]) -> list[Passage]:
        """Passages by id, in that order."""
        rows = self.database.execute(
            "SELECT passages.id, file, title, headings, page, begins, ends, text FROM passages "
            "JOIN documents ON documents.id = document "
            "WHERE passages.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        found = {
            own: Passage(file, title, tuple(json.loads(headings)), page, begins, ends, text)
            for own, file, title, headings, page, begins, ends, text in rows
        }
        return [found[own] for own in ids]

    def _vectors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, documents, matrix), read again when another process has changed the file."""
        version = self.database.execute("PRAGMA data_version").fetchone()[0]
        version += self.database.total_changes
        if self._matrix is None or self._matrix[0] != version:
            rows = self.database.execute(
                "SELECT id, document, vector FROM passages ORDER BY id"
            ).fetchall()
            numbers = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
            vectors = np.frombuffer(b"".join(row[2] for row in rows), dtype=np.float32)
            matrix = vectors.reshape(len(rows), -1) if rows else np.zeros((0, 1), np.float32)
            self._matrix = (version, numbers[:, 0], numbers[:, 1], matrix)
        return self._matrix[1:]

    def _document_ids(self, files: Collection[str]) -> list[int]:
        known = self.database.execute("SELECT file, id FROM documents")
        return [own for file, own in known if file in files]

    def _forget(self, file: str) -> None:
        self.database.execute(
            "DELETE FROM passages WHERE document IN (SELECT id FROM documents WHERE file = ?)",
            (file,),
        )
        self.database.execute("DELETE FROM documents WHERE file = ?", (file,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; a trigger's own semicolons don't end one."""
    gathered = ""
    for line in script.splitlines(keepends=True):
        gathered += line
        if sqlite3.complete_statement(gathered):
            yield gathered
            gathered = ""


def _storable(text: str) -> str:
    """The text with what UTF-8 can't hold replaced, one character for one."""
    return _SURROGATE.sub("�", text)
