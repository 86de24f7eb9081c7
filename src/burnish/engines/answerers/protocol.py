"""The protocol of teachers and judges. Code that only reads their replies loads no model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from burnish.core.records import Message, Prompt

if TYPE_CHECKING:
    from burnish.engines.local.engine import LocalEngine

#: Called before each request with the number of requests then in flight; returns whether one more
#: may start.
MayAsk = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class AnswererReply:
    """The outcome of one question. `error` is empty if it was answered; `tries` counts requests.
    `thought` is the reasoning before the answer."""

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    finish_reason: str = "stop"
    tries: int = 1
    error: str = ""
    thought: str = ""


class Answerer(Protocol):
    """Answers questions, locally or remotely."""

    @property
    def name(self) -> str:
        """The name shown to users."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that its answers depend on besides the question, as JSON."""

    @property
    def needs_instructions(self) -> bool:
        """Whether the question must state the form of the answer; a model trained for it needs no
        such instruction."""

    @property
    def reasoning_tokens(self) -> int:
        """Token budget of the reasoning that it was trained to write; 0 if unknown."""

    @property
    def engine(self) -> "LocalEngine | None":
        """The engine of a local teacher, for timing and memory; None for a remote one."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a question; an estimate for a remote model."""

    def ask(
        self, prompts: Sequence[Prompt], may_ask: MayAsk
    ) -> Iterator[tuple[int, AnswererReply]]:
        """Yield (index in `prompts`, reply) as they come.

        Once `may_ask` returns False, nothing more is sent; requests in flight are still returned.
        Raises TeacherStopped if continuing is pointless.
        """
