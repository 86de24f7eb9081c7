"""An index on a PostgreSQL server with pgvector, in a schema of its own (`burnish_<name>`).

Nearest vectors by HNSW (Malkov & Yashunin 2016, arXiv:1603.09320), exactly if only some files are
searched; words, analyzed by rag.analysis, by PostgreSQL's own text search, whose rank ignores
rarity, unlike BM25.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from burnish.core.errors import BadRecipe, Unavailable
from burnish.rag.analysis import question_terms, terms
from burnish.rag.store import Passage, Ranking

_PREFIX = "burnish_"
_TABLES = """
CREATE TABLE facts (value JSONB NOT NULL);
CREATE TABLE documents (
    id BIGSERIAL PRIMARY KEY, file TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, title TEXT NOT NULL
);
CREATE TABLE passages (
    id BIGSERIAL PRIMARY KEY,
    document BIGINT NOT NULL REFERENCES documents ON DELETE CASCADE,
    headings JSONB NOT NULL, page INTEGER, begins INTEGER NOT NULL, ends INTEGER NOT NULL,
    text TEXT NOT NULL, words TSVECTOR NOT NULL
);
CREATE INDEX ON passages (document);
CREATE INDEX ON passages USING gin (words);
"""
#: The vector column is added with the first vectors, which give its width.
_VECTORS = """
ALTER TABLE passages ADD COLUMN IF NOT EXISTS vector public.vector({width}) NOT NULL;
CREATE INDEX IF NOT EXISTS passages_near ON passages USING hnsw (vector public.vector_ip_ops);
"""
#: The largest position in a `tsvector`.
_LAST_PLACE = 16_383
#: Characters that PostgreSQL can't store: lone surrogates and U+0000.
_UNSTORABLE = re.compile("[\ud800-\udfff\x00]")


def connect(url: str) -> Any:
    """Open a connection that commits each statement. Raises Unavailable."""
    try:
        import psycopg
    except ModuleNotFoundError as error:
        raise Unavailable(
            "Indexes on PostgreSQL need the package `psycopg`.", "pip install 'burnish[postgresql]'"
        ) from error
    try:
        return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True)
    except psycopg.Error as error:
        raise Unavailable(
            f"The database of indexes can't be reached: {str(error).strip()}",
            "Check BURNISH_INDEXES: postgresql://user:password@host/database",
        ) from error


def list_postgres(url: str) -> list[str]:
    """Return the indexes of a database, by name."""
    with connect(url) as database:
        rows = database.execute(
            "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s)", (_PREFIX,)
        ).fetchall()
    return sorted(name.removeprefix(_PREFIX) for (name,) in rows)


def drop_postgres(url: str, name: str) -> None:
    """Delete an index."""
    with connect(url) as database:
        database.execute(f'DROP SCHEMA IF EXISTS "{_schema(name)}" CASCADE')


class PostgresStore:
    """The index `name`; created when it is first opened. Raises Unavailable."""

    def __init__(self, url: str, name: str) -> None:
        self.schema = _schema(name)
        self.database = connect(url)
        with self._transaction():
            known = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
            if not self.database.execute(known, (self.schema,)).fetchone():
                self._create_schema()
        self.database.execute(f'SET search_path TO "{self.schema}", public')

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    def facts(self) -> dict[str, Any]:
        """Return the recorded facts about the index; empty if it is new."""
        row = self.database.execute("SELECT value FROM facts").fetchone()
        return dict(row[0]) if row else {}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Record the facts about the index."""
        with self._transaction():
            self.database.execute("DELETE FROM facts")
            self.database.execute("INSERT INTO facts VALUES (%s)", (json.dumps(dict(facts)),))

    def digests(self) -> dict[str, str]:
        """Return file → content hash of the indexed files."""
        return dict(self.database.execute("SELECT file, digest FROM documents").fetchall())

    def replace(self, file: str, digest: str, passages: Sequence[Passage], vectors: Any) -> None:
        """Replace a file's passages in one transaction."""
        with self._transaction():
            self.database.execute("DELETE FROM documents WHERE file = %s", (file,))
            title = _replace_unstorable(passages[0].title if passages else "")
            document = self.database.execute(
                "INSERT INTO documents (file, digest, title) VALUES (%s, %s, %s) RETURNING id",
                (file, digest, title),
            ).fetchone()[0]
            if passages:
                self.database.execute(_VECTORS.format(width=len(vectors[0])))
            rows = [
                (
                    document, json.dumps(passage.headings), passage.page, passage.start,
                    passage.end, _replace_unstorable(passage.text),
                    _lexemes(_replace_unstorable(f"{passage.section}\n{passage.text}")),
                    _vector_literal(vector),
                )
                for passage, vector in zip(passages, vectors, strict=True)
            ]  # fmt: skip
            with self.database.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO passages (document, headings, page, begins, ends, text, words, "
                    "vector) VALUES (%s, %s, %s, %s, %s, %s, %s::tsvector, "
                    "%s::vector)",
                    rows,
                )

    def remove(self, files: Collection[str]) -> None:
        """Remove these files in one transaction."""
        self.database.execute("DELETE FROM documents WHERE file = ANY(%s)", (list(files),))

    def refresh(self) -> None:
        """Do nothing: the database is always up to date."""

    def count(self) -> int:
        """Return the number of passages."""
        return int(self.database.execute("SELECT count(*) FROM passages").fetchone()[0])

    def search_vectors(
        self, vector: np.ndarray, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """Return the passages with the nearest vectors by dot product, of these files only."""
        if not self.count():
            return []
        query, values = _filter_files("SELECT id, -(vector <#> %s::vector) FROM passages", files)
        with self._transaction(alone=False):
            if files is not None:
                # The file filter applies after the graph search, which would end too early.
                self.database.execute("SET LOCAL enable_indexscan = off")
            self.database.execute(f"SET LOCAL hnsw.ef_search = {min(max(4 * most, 100), 1000)}")
            literal = _vector_literal(vector)
            return self._run_ranking(
                f"{query} ORDER BY vector <#> %s::vector LIMIT %s",
                (literal, *values, literal, most),
            )

    def search_words(
        self, question: str, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """Return the passages with the highest `ts_rank_cd`, of these files only."""
        words = dict.fromkeys(question_terms(_replace_unstorable(question)))
        if not words:
            return []
        ts_query = " | ".join(f"'{word}'" for word in words)
        query, values = _filter_files(
            "SELECT passages.id, ts_rank_cd(words, asked, 1) AS rank FROM passages, "
            "CAST(%s AS tsquery) AS asked",
            files,
        )
        conjunction = "AND" if files is not None else "WHERE"
        return self._run_ranking(
            f"{query} {conjunction} words @@ asked ORDER BY rank DESC, passages.id LIMIT %s",
            (ts_query, *values, most),
        )

    def passages(self, ids: Sequence[int]) -> list[Passage]:
        """Return passages by id, in that order."""
        rows = self.database.execute(
            "SELECT passages.id, file, title, headings, page, begins, ends, text FROM passages "
            "JOIN documents ON documents.id = document WHERE passages.id = ANY(%s)",
            (list(ids),),
        ).fetchall()
        by_id = {
            passage_id: Passage(file, title, tuple(headings), page, begins, ends, text)
            for passage_id, file, title, headings, page, begins, ends, text in rows
        }
        return [by_id[passage_id] for passage_id in ids]

    def _run_ranking(self, query: str, values: Sequence[Any]) -> Ranking:
        rows = self.database.execute(query, values).fetchall()
        return [(int(passage_id), float(score)) for passage_id, score in rows]

    def _create_schema(self) -> None:
        import psycopg

        try:
            self.database.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        except psycopg.Error as error:
            raise Unavailable(
                f"The database has no pgvector: {str(error).strip()}",
                "Install pgvector on the server, and let its owner run: CREATE EXTENSION vector",
            ) from error
        self.database.execute(f'CREATE SCHEMA "{self.schema}"')
        self.database.execute(f'SET LOCAL search_path TO "{self.schema}", public')
        self.database.execute(_TABLES)

    @contextmanager
    def _transaction(self, alone: bool = True) -> Iterator[None]:
        """Run a transaction; with `alone`, one writer per index at a time."""
        with self.database.transaction():
            if alone:
                lock = "SELECT pg_advisory_xact_lock(hashtext(%s))"
                self.database.execute(lock, (self.schema,))
            yield


def _filter_files(query: str, files: Collection[str] | None) -> tuple[str, list[Any]]:
    """Return the query restricted to these files, and its parameters."""
    if files is None:
        return query, []
    condition = "document IN (SELECT documents.id FROM documents WHERE file = ANY(%s))"
    return f"{query} WHERE {condition}", [list(files)]


def _schema(name: str) -> str:
    schema = f"{_PREFIX}{name}"
    if len(schema.encode()) > 63:
        raise BadRecipe(
            f"The index name `{name}` is too long for PostgreSQL.",
            f"Use at most {63 - len(_PREFIX)} bytes.",
        )
    return schema


def _vector_literal(vector: Any) -> str:
    return json.dumps(np.asarray(vector, dtype=np.float32).tolist())


def _lexemes(text: str) -> str:
    """Return the terms of a text with their positions, in the syntax of a `tsvector`."""
    positions: dict[str, list[int]] = defaultdict(list)
    for position, term in enumerate(terms(text), start=1):
        positions[term].append(min(position, _LAST_PLACE))
    return " ".join(
        f"'{term}':{','.join(map(str, term_positions))}"
        for term, term_positions in positions.items()
    )


def _replace_unstorable(text: str) -> str:
    """Replace characters that PostgreSQL can't store, one for one."""
    return _UNSTORABLE.sub("�", text)
