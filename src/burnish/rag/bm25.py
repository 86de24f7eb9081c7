"""The search by words: BM25 by tantivy, in a folder beside the index's database.

The database is the truth. The folder follows it: each search first brings in what the database has
gained or lost since. To bring something in twice changes nothing, so a kill at any point costs
only the time to do it again; a folder that can't be read is made anew.
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
#: Goes up with each change of rag.analysis: folders that were read otherwise are made anew.
ANALYSIS = 2
#: Bytes that are gathered in memory before they are written.
_HEAP = 64_000_000


@dataclass(frozen=True, slots=True)
class IndexState:
    """How far the folder has followed: the database's own name, the last passage that came in and
    the last document that went; and by which analysis its texts were read."""

    database: str = ""
    passage: int = 0
    gone: int = 0
    analysis: int = 0


@dataclass(frozen=True, slots=True)
class IndexChanges:
    """What the database has beyond a state: ids of documents that went, and passages that came,
    `count` of them, each document's together."""

    state: IndexState
    gone: Sequence[int]
    rows: Iterable[IndexedText]
    count: int


class WordIndex:
    """The words of an index's passages, as rag.analysis reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = IndexState()
        self._index: tantivy.Index | None = None

    def update(self, now: IndexState, news: Callable[[IndexState], IndexChanges]) -> None:
        """Bring the folder to where the database is (`now`), by what `news` says since a state.

        Processes take turns; the second finds the work done.
        """
        if self._index is not None and self._state == now:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            index, then = self._open(now)
            self._state = then if then == now else self._apply_changes(index, news(then))
            self._index = index

    def search(self, question: str, most: int, documents: Sequence[int] | None = None) -> Ranking:
        """The passages with the highest BM25 (Robertson & Zaragoza 2009), of these documents only.

        Raises nothing for any text: a question has words, and no query language.
        """
        stems = dict.fromkeys(question_terms(question))
        if self._index is None or not stems or most < 1:
            return []
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, tantivy.Query.term_query(_SCHEMA, "text", s)) for s in stems]
        )
        if documents is not None:
            only = tantivy.Query.term_set_query(_SCHEMA, "document", list(documents))
            kept = tantivy.Query.const_score_query(only, 0.0)
            query = tantivy.Query.boolean_query(
                [(tantivy.Occur.Must, query), (tantivy.Occur.Must, kept)]
            )
        searcher = self._index.searcher()
        hits = searcher.search(query, most, count=False).hits
        ids = searcher.fast_field_values("id", [address for _, address in hits])
        scored = [
            (int(own or 0), float(score or 0)) for own, (score, _) in zip(ids, hits, strict=True)
        ]
        return sorted(scored, key=lambda item: (-item[1], item[0]))

    def _open(self, now: IndexState) -> tuple[tantivy.Index, IndexState]:
        """The folder's index and what it knows: nothing if it had to be made anew."""
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

    def _apply_changes(self, index: tantivy.Index, news: IndexChanges) -> IndexState:
        writer = index.writer(heap_size=_HEAP, num_threads=1)
        for document in news.gone:
            writer.delete_documents_by_term("document", document)
        fresh = None
        with progress("Sorting words", total=news.count) as bar:
            for own, document, text in news.rows:
                if document != fresh:
                    # It may be here already, if a kill came between the commit and the state.
                    writer.delete_documents_by_term("document", document)
                    fresh = document
                read = " ".join(terms(text))
                writer.add_document(tantivy.Document(id=own, document=document, text=read))
                bar.advance()
        writer.commit()
        writer.wait_merging_threads()
        write_json(self.folder / "state.json", asdict(news.state))
        index.reload()
        return news.state


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("id", fast=True)
    builder.add_integer_field("document", indexed=True, fast=True)
    builder.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    return builder.build()


_SCHEMA = _schema()
