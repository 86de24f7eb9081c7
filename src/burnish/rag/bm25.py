"""Word search: BM25 by tantivy, in a folder beside the index's database.

The database is the source of truth, and the folder follows it: each search first applies what the
database gained or lost since. Changes are idempotent, so a kill at any point only costs the time to
apply them again; an unreadable folder is rebuilt.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tantivy
from filelock import FileLock

from burnish.core.atomic import write_json
from burnish.core.progress import progress
from burnish.rag.analysis import question_terms, terms
from burnish.rag.store import Ranking

#: Passage id, its document's id, its text.
IndexedText = tuple[int, int, str]
#: Incremented with each change of rag.analysis: folders of another version are rebuilt.
ANALYSIS = 2
#: Bytes buffered in memory before they are written.
_HEAP = 64_000_000


@dataclass(frozen=True, slots=True)
class IndexState:
    """How far the folder has followed: the database's own name, the last passage added and the last
    document removed; and the version of the analysis."""

    database: str = ""
    passage: int = 0
    gone: int = 0
    analysis: int = 0


@dataclass(frozen=True, slots=True)
class IndexChanges:
    """What the database has beyond a state: ids of removed documents, and added passages, `count`
    of them, grouped by document."""

    state: IndexState
    gone: Sequence[int]
    rows: Iterable[IndexedText]
    count: int


class WordIndex:
    """The words of an index's passages, analyzed by rag.analysis."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = IndexState()
        self._index: tantivy.Index | None = None

    def update(self, now: IndexState, changes_since: Callable[[IndexState], IndexChanges]) -> None:
        """Bring the folder to the database's state (`now`); `news` returns the changes since a
        state.

        Processes take turns; the second finds the work done.
        """
        if self._index is not None and self._state == now:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            index, then = self._open(now)
            self._state = then if then == now else self._apply_changes(index, changes_since(then))
            self._index = index

    def search(self, question: str, most: int, documents: Sequence[int] | None = None) -> Ranking:
        """Return the passages of these documents with the highest BM25 (Robertson & Zaragoza 2009).

        No text raises an error: a question has words, and no query syntax.
        """
        stems = dict.fromkeys(question_terms(question))
        if self._index is None or not stems or most < 1:
            return []
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, tantivy.Query.term_query(_SCHEMA, "text", s)) for s in stems]
        )
        if documents is not None:
            documents_query = tantivy.Query.term_set_query(_SCHEMA, "document", list(documents))
            in_documents = tantivy.Query.const_score_query(documents_query, 0.0)
            query = tantivy.Query.boolean_query(
                [(tantivy.Occur.Must, query), (tantivy.Occur.Must, in_documents)]
            )
        searcher = self._index.searcher()
        hits = searcher.search(query, most, count=False).hits
        ids = searcher.fast_field_values("id", [address for _, address in hits])
        scored = [
            (int(passage_id or 0), float(score or 0))
            for passage_id, (score, _) in zip(ids, hits, strict=True)
        ]
        return sorted(scored, key=lambda item: (-item[1], item[0]))

    def _open(self, now: IndexState) -> tuple[tantivy.Index, IndexState]:
        """Open the folder's index and its state: an empty one if it had to be rebuilt."""
        try:
            state = IndexState(
                **json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            )
            if (state.database, state.analysis) == (now.database, now.analysis):
                return tantivy.Index.open(str(self.folder / "index")), state
        except (OSError, ValueError, TypeError):
            pass
        shutil.rmtree(self.folder / "index", ignore_errors=True)
        (self.folder / "index").mkdir()
        return tantivy.Index(_SCHEMA, path=str(self.folder / "index")), IndexState()

    def _apply_changes(self, index: tantivy.Index, changes: IndexChanges) -> IndexState:
        writer = index.writer(heap_size=_HEAP, num_threads=1)
        for document in changes.gone:
            writer.delete_documents_by_term("document", document)
        current = None
        with progress("Sorting words", total=changes.count) as bar:
            for passage_id, document, text in changes.rows:
                if document != current:
                    # It may be here already, if a kill came between the commit and the state.
                    writer.delete_documents_by_term("document", document)
                    current = document
                analyzed = " ".join(terms(text))
                writer.add_document(
                    tantivy.Document(id=passage_id, document=document, text=analyzed)
                )
                bar.advance()
        writer.commit()
        writer.wait_merging_threads()
        write_json(self.folder / "state.json", asdict(changes.state))
        index.reload()
        return changes.state


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("id", fast=True)
    builder.add_integer_field("document", indexed=True, fast=True)
    builder.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    return builder.build()


_SCHEMA = _schema()
