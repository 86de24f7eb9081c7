"""What the routes with retrieval add: passages of the recipe's documents before each question.

A model that is fine-tuned for it sees in training what it will see when asked: the passages as they
are retrieved for the question, good and bad. In some rows those that hold the answer are taken out,
as in RAFT (Zhang et al. 2024, arXiv:2403.10131), so that it doesn't just copy the first passage.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from burnish.core.atomic import hash_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.rag import Rag
from burnish.core.records import Message, Prompt, Row
from burnish.data.duplicates import content_hash, normalize_text
from burnish.rag.indexing import build_index
from burnish.rag.prompt import Count, fit_passages, with_passages
from burnish.rag.search import Index, open_index
from burnish.rag.store import Passage

#: Passages are looked up this many times `k` deep: where some are taken out, others move up.
_SPARE = 3


@dataclass(frozen=True, slots=True)
class IndexedDocuments:
    """The recipe's documents, indexed. What was found for a question is kept."""

    index: Index
    settings: Rag
    _passages: dict[str, list[Passage]] = field(default_factory=dict)

    def rank(self, questions: Sequence[str]) -> list[list[Passage]]:
        """For each question more passages than will be shown, best first."""
        new = list(dict.fromkeys(text for text in questions if text not in self._passages))
        found = self.index.search_all(new, _SPARE * self.settings.k)
        for question, some in zip(new, found, strict=True):
            self._passages[question] = [item.passage for item in some]
        return [self._passages[question] for question in questions]

    def fingerprint(self) -> str:
        """A hash of what the documents hold, and of the model that orders their passages."""
        digests = self.index.store.digests()
        if self.index.reranking is None:
            return hash_json(digests)
        return hash_json([digests, self.index.reranking.model.sha256])


def open_documents(settings: Rag) -> IndexedDocuments:
    """Index the recipe's documents, or bring their index up to date.

    Raises BadRecipe if none are named; NotFound and BadData as `burnish index` does.
    """
    if not settings.documents:
        raise BadRecipe(
            "A route with retrieval is named, but no documents.", "Set rag.documents to a folder."
        )
    making = {"embedder": settings.embedder, "chunk_tokens": settings.chunk_tokens}
    name = f"recipe-{hash_json([[str(path) for path in settings.documents], making])[:12]}"
    report = build_index(settings.documents, name, making)
    say(report.as_text().splitlines()[0])
    if report.note:
        say(report.note)
    return IndexedDocuments(open_index(name, settings.rerank, settings.rerank_top), settings)


def prompts_with_passages(
    documents: IndexedDocuments, prompts: Sequence[Prompt], count: Count, room: int, label: str
) -> list[Prompt]:
    """Each prompt with the passages found for its question, as many of the best as fit into `room`
    tokens with the answer."""
    k = documents.settings.k
    found = documents.rank([_question(prompt.messages) for prompt in prompts])
    shown = []
    for prompt, ranked in zip(prompts, found, strict=True):
        kept = fit_passages(prompt.messages, ranked[:k], count, room - prompt.max_new_tokens)
        shown.append((replace(prompt, messages=with_passages(prompt.messages, kept)), len(kept)))
    most = max(len(prompts), 1)
    before = sum(count(prompt.messages) for prompt in prompts) / most
    after = sum(count(prompt.messages) for prompt, _ in shown) / most
    number = sum(kept for _, kept in shown) / most
    say(
        f"{label}: {number:.1f} of {k} passages a question; they cost {after - before:.0f} tokens "
        "a question."
    )
    return [prompt for prompt, _ in shown]


def rows_with_passages(
    documents: IndexedDocuments,
    rows: Sequence[Row],
    size: Callable[[Row], int],
    room: int,
    gold_share: float,
    seed: int,
) -> tuple[Row, ...]:
    """Rows with the passages found for their questions; `size` gives a row's tokens, `room` the
    most that it may have.

    A share of `gold_share` as found; from the others' passages all that hold the answer are taken
    out. Which ones depends on the seed and on what the row says. Plain text stays as it is.
    """
    found = documents.rank([_question(row.prompt) for row in rows])
    made = []
    for row, ranked in zip(rows, found, strict=True):
        if not row.prompt:
            made.append(row)
            continue
        draw = random.Random(f"{seed}/{content_hash(row)}").random()
        some = ranked if draw < gold_share else _without_gold(ranked, row.answer)
        kept = some[: documents.settings.k]
        while kept and size(_with_passages(row, kept)) > room:
            kept = kept[:-1]
        made.append(_with_passages(row, kept))
    return tuple(made)


def _with_passages(row: Row, passages: Sequence[Passage]) -> Row:
    asked = with_passages(row.prompt, passages)
    return replace(row, messages=(*asked, *row.messages[len(row.prompt) :]))


def _without_gold(ranked: Sequence[Passage], answer: str) -> list[Passage]:
    """The passages that don't say the answer; if none says it in these words, all but the best."""
    said = _normalize(answer)
    others = [passage for passage in ranked if said not in _normalize(passage.text)]
    return others if len(others) < len(ranked) else list(ranked[1:])


def _normalize(text: str) -> str:
    """Words only, with a space on each side, so that a word isn't found inside another."""
    return f" {normalize_text(text)} "


def _question(messages: Sequence[Message]) -> str:
    """What is looked up: the last thing that the user says."""
    return next((turn.content for turn in reversed(messages) if turn.role == "user"), "")
