"""Passages in a prompt: before the question, best first, as many as fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from burnish.core.records import Message
from burnish.rag.store import Passage

#: Messages → the number of their tokens as a prompt.
Count = Callable[[Sequence[Message]], int]


def with_passages(messages: Sequence[Message], passages: Sequence[Passage]) -> tuple[Message, ...]:
    """Return the messages with numbered passages before the last question; unchanged without
    either."""
    position = max((n for n, turn in enumerate(messages) if turn.role == "user"), default=None)
    if not passages or position is None:
        return tuple(messages)
    context = "\n\n".join(format_passage(passage, n) for n, passage in enumerate(passages, start=1))
    question = replace(
        messages[position], content=f"{context}\n\nQuestion: {messages[position].content}"
    )
    return (*messages[:position], question, *messages[position + 1 :])


def format_passage(passage: Passage, number: int) -> str:
    """Format a passage for the model: its number, section and text."""
    return f"[{number}] {passage.section}\n{passage.text}"


def fit_passages(
    messages: Sequence[Message], passages: Sequence[Passage], count: Count, room: int
) -> list[Passage]:
    """Return the passages that fit into `room` tokens together with the messages, the lowest-ranked
    dropped first. `passages` are best first."""
    kept = list(passages)
    while kept and count(with_passages(messages, kept)) > room:
        kept.pop()
    return kept
