"""What a teacher is. Whoever only reads what one has said needs no model, and loads none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from burnish.core.records import Message, Prompt

if TYPE_CHECKING:
    from burnish.engines.local.engine import LocalEngine

#: Asked before each request with how many would then be on their way: whether one more may begin.
MayAsk = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class AnswererReply:
    """What became of one question. `error` is empty if it was answered; `tries` counts requests.
    `thought` is what a teacher that reasons aloud said before its answer."""

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    finish_reason: str = "stop"
    tries: int = 1
    error: str = ""
    thought: str = ""


class Answerer(Protocol):
    """Answers questions, here or elsewhere."""

    @property
    def name(self) -> str:
        """How people call it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its answers depend on besides the question, as JSON."""

    @property
    def needs_instructions(self) -> bool:
        """Whether the question must say what form the answer has: not to one trained for it."""

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of room for the thoughts that it was trained to have; 0 if that isn't known."""

    @property
    def engine(self) -> "LocalEngine | None":
        """The engine of a local teacher, which can be timed and weighed."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a question, roughly where only its owner could count."""

    def ask(
        self, prompts: Sequence[Prompt], may_ask: MayAsk
    ) -> Iterator[tuple[int, AnswererReply]]:
        """(place in `prompts`, reply) as they come.

        Once `may_ask` says no, nothing more is sent; what is on its way still comes back. Raises
        TeacherStopped if there is no point in going on.
        """
