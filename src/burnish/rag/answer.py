"""Answer a question from the passages of an index, with citations."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from burnish.core.errors import PromptTooLong
from burnish.core.progress import say
from burnish.core.records import Message, Prompt
from burnish.engines.local.engine import LocalEngine
from burnish.rag.grounding import LEAST_SUPPORT, support
from burnish.rag.prompt import fit_passages, with_passages
from burnish.rag.search import Index, SearchHit

INSTRUCTION = (
    "Answer the question briefly, from the numbered passages only, and name the passage after each "
    "fact by its number, like [1]. If the passages do not hold the answer, say: I don't know."
)
DONT_KNOW = "I don't know."


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How a question is asked.

    At most `k` passages, of files that match the pattern `files`; if the most similar passage has a
    cosine below `least_similarity`, the model isn't asked: the documents are off topic. An answer
    whose support (rag.grounding) is below `least_support` is marked unsupported.
    """

    k: int = 5
    files: str | None = None
    least_similarity: float = 0.25
    max_new_tokens: int = 128
    least_support: float = LEAST_SUPPORT


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage shown to the model as `[number]`; `cited` if the answer names it."""

    number: int
    cited: bool
    hit: SearchHit

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish ask --json` prints."""
        return {"number": self.number, "cited": self.cited, **self.hit.as_dict()}

    def as_text(self) -> str:
        """Return `[1] skua.md: Skua > Lights (characters 120 to 340)`."""
        return f"[{self.number}] {self.hit.passage.source}"


@dataclass(frozen=True, slots=True)
class CitedAnswer:
    """An answer and the passages behind it. `known` is false if it says that it doesn't know.

    `support` is how far the passages support it, 0 to 1 (rag.grounding), None if there is nothing
    to check; `supported` is false if that is too little.
    """

    answer: str
    known: bool
    citations: tuple[Citation, ...]
    support: float | None = None
    supported: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish ask --json` prints."""
        citations = [citation.as_dict() for citation in self.citations]
        return {
            "answer": self.answer,
            "known": self.known,
            "support": self.support,
            "supported": self.supported,
            "citations": citations,
        }

    def as_text(self) -> str:
        """Return the answer for the terminal."""
        if not self.known:
            return self.answer
        cited = [citation.as_text() for citation in self.citations if citation.cited]
        shown = [citation.as_text() for citation in self.citations if not citation.cited]
        parts = [self.answer]
        if not self.supported:
            share = round(100 * (self.support or 0))
            parts.append(f"Not supported: only {share} % of it stands in the passages. Check it.")
        if cited:
            parts.append("\n".join(["Cited:", *cited]))
        if shown:
            head = "Shown too:" if cited else "The answer names no passage. Shown to the model:"
            parts.append("\n".join([head, *shown]))
        return "\n\n".join(parts)


def ask(engine: LocalEngine, index: Index, question: str, settings: AnswerSettings) -> CitedAnswer:
    """Answer a question from the index. Raises PromptTooLong if not even one passage fits.

    A model is instructed to cite; a run gets the system prompt of its training.
    """
    hits = index.search(question, settings.k, settings.files)
    if not hits:
        say("No passage was found: the model was not asked.")
        return CitedAnswer(DONT_KNOW, False, ())
    nearest = max(item.similarity or 0.0 for item in hits)
    # Where the embedder doesn't know the script, no passage has a similarity to judge by.
    judged = not hits.note or any(item.similarity is not None for item in hits)
    if judged and nearest < settings.least_similarity:
        say(f"The nearest passage has a similarity of {nearest:.2f}: the model was not asked.")
        return CitedAnswer(DONT_KNOW, False, ())
    instruction = INSTRUCTION if engine.system is None else engine.system
    messages = (Message("system", instruction), Message("user", question))
    room = engine.context_length - settings.max_new_tokens
    kept = fit_passages(messages, [hit.passage for hit in hits], engine.count_tokens, room)
    if not kept:
        raise PromptTooLong(
            f"Not even one passage fits the context of {engine.name} ({engine.context_length} "
            "tokens).",
            "Use a model with a longer context, or index with smaller --chunk-tokens.",
        )
    if len(kept) < len(hits):
        say(f"{len(kept)} of {len(hits)} passages fit the context.")
    prompt = Prompt(with_passages(messages, kept), max_new_tokens=settings.max_new_tokens)
    answer = engine.answer([prompt])[0].text.strip()
    return _cite(question, answer, hits[: len(kept)], settings.least_support)


def _cite(
    question: str, answer: str, hits: Sequence[SearchHit], least_support: float
) -> CitedAnswer:
    cited_numbers = {int(number) for number in re.findall(r"\[(\d+)\]", answer)}
    known = not re.match(r"I (don[’']t|do not) know\b", answer, flags=re.IGNORECASE)
    citations = (Citation(n, n in cited_numbers, hit) for n, hit in enumerate(hits, start=1))
    texts = [f"{hit.passage.section}\n{hit.passage.text}" for hit in hits]
    share = support(answer, texts, question) if known else None
    supported = share is None or share >= least_support
    return CitedAnswer(answer, known, tuple(citations), share, supported)
