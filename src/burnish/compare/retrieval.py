"""Retrieval routes: passages of the recipe's documents before each question.

A model that is fine-tuned for it sees in training what it will see at inference: the passages as
retrieved, good and bad. In some rows those that contain the answer are removed, as in RAFT (Zhang
et al. 2024, arXiv:2403.10131), so that it doesn't just copy the first passage.
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

#: Passages are retrieved this many times `k` deep: if some are removed, others move up.
_SPARE = 3


@dataclass(frozen=True, slots=True)
class IndexedDocuments:
    """The recipe's documents, indexed. Retrieved passages are cached per question."""

    index: Index
    settings: Rag
    _passages: dict[str, list[Passage]] = field(default_factory=dict)

    def rank(self, questions: Sequence[str]) -> list[list[Passage]]:
        """Return for each question more passages than will be shown, best first."""
        new = list(dict.fromkeys(text for text in questions if text not in self._passages))
        results = self.index.search_all(new, _SPARE * self.settings.k)
        for question, hits in zip(new, results, strict=True):
            self._passages[question] = [hit.passage for hit in hits]
        return [self._passages[question] for question in questions]

    def fingerprint(self) -> str:
        """Return a hash of the documents' contents, and of the reranking model."""
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
            "A retrieval route is named, but no documents.", "Set rag.documents to a folder."
        )
    settings_by_name = {"embedder": settings.embedder, "chunk_tokens": settings.chunk_tokens}
    name = (
        f"recipe-{hash_json([[str(path) for path in settings.documents], settings_by_name])[:12]}"
    )
    report = build_index(settings.documents, name, settings_by_name)
    say(report.as_text().splitlines()[0])
    if report.note:
        say(report.note)
    return IndexedDocuments(open_index(name, settings.rerank, settings.rerank_top), settings)


def prompts_with_passages(
    documents: IndexedDocuments, prompts: Sequence[Prompt], count: Count, room: int, label: str
) -> list[Prompt]:
    """Return each prompt with the passages retrieved for its question, as many of the best as fit
    into `room` tokens with the answer."""
    k = documents.settings.k
    rankings = documents.rank([_question(prompt.messages) for prompt in prompts])
    shown = []
    for prompt, ranked in zip(prompts, rankings, strict=True):
        kept = fit_passages(prompt.messages, ranked[:k], count, room - prompt.max_new_tokens)
        shown.append((replace(prompt, messages=with_passages(prompt.messages, kept)), len(kept)))
    question_count = max(len(prompts), 1)
    before = sum(count(prompt.messages) for prompt in prompts) / question_count
    after = sum(count(prompt.messages) for prompt, _ in shown) / question_count
    passage_count = sum(kept for _, kept in shown) / question_count
    say(
        f"{label}: {passage_count:.1f} of {k} passages per question; they cost "
        f"{after - before:.0f} tokens per question."
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
    """Return rows with the passages retrieved for their questions; `size` gives a row's tokens,
    `room` their limit.

    A share of `gold_share` gets them as retrieved; from the others' passages all that contain the
    answer are removed. Which ones depends on the seed and the row's content. Plain text is
    unchanged.
    """
    rankings = documents.rank([_question(row.prompt) for row in rows])
    result = []
    for row, ranked in zip(rows, rankings, strict=True):
        if not row.prompt:
            result.append(row)
            continue
        draw = random.Random(f"{seed}/{content_hash(row)}").random()
        candidates = ranked if draw < gold_share else _without_gold(ranked, row.answer)
        kept = candidates[: documents.settings.k]
        while kept and size(_with_passages(row, kept)) > room:
            kept = kept[:-1]
        result.append(_with_passages(row, kept))
    return tuple(result)


def _with_passages(row: Row, passages: Sequence[Passage]) -> Row:
    prompt = with_passages(row.prompt, passages)
    return replace(row, messages=(*prompt, *row.messages[len(row.prompt) :]))


def _without_gold(ranked: Sequence[Passage], answer: str) -> list[Passage]:
    """Return the passages without the answer; if none contains it in these words, all but the
    best."""
    needle = _normalize(answer)
    others = [passage for passage in ranked if needle not in _normalize(passage.text)]
    return others if len(others) < len(ranked) else list(ranked[1:])


def _normalize(text: str) -> str:
    """Reduce to words, with a space on each side, so that a word isn't found inside another."""
    return f" {normalize_text(text)} "


def _question(messages: Sequence[Message]) -> str:
    """Return the text to search for: the last user message."""
    return next((turn.content for turn in reversed(messages) if turn.role == "user"), "")
