"""Passages in a prompt: before the question, best first, as many as fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from burnish.core.records import Message
from burnish.rag.store import Passage

#: Messages → the tokens that they take as a prompt.
Count = Callable[[Sequence[Message]], int]


def with_passages(messages: Sequence[Message], passages: Sequence[Passage]) -> tuple[Message, ...]:
    """The messages with numbered passages before the last question; as they are without either."""
    place = max((n for n, turn in enumerate(messages) if turn.role == "user"), default=None)
    if not passages or place is None:
        return tuple(messages)
    told = "\n\n".join(format_passage(passage, n) for n, passage in enumerate(passages, start=1))
    asked = replace(messages[place], content=f"{told}\n\nQuestion: {messages[place].content}")
    return (*messages[:place], asked, *messages[place + 1 :])


def format_passage(passage: Passage, number: int) -> str:
    """A passage as a model reads it: its number, where it stands, and what it says."""
    return f"[{number}] {passage.section}\n{passage.text}"


def fit_passages(
    messages: Sequence[Message], passages: Sequence[Passage], count: Count, room: int
) -> list[Passage]:
    """The passages that `room` tokens hold together with the messages, the lowest-ranked dropped
    first. `passages` are best first."""
    kept = list(passages)
    while kept and count(with_passages(messages, kept)) > room:
        kept.pop()
    return kept
