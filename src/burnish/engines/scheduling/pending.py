"""A request in the scheduler's hands, and what whoever asked is told about it."""

from collections.abc import Callable
from dataclasses import dataclass

from burnish.core.errors import BurnishError
from burnish.core.records import Answer, TokenLogprob
from burnish.engines.local.decoding import Request

#: What computing an answer can raise; out of memory is a RuntimeError.
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)


class AnswerFailed(BurnishError):
    """An answer could not be computed: no memory, or a broken model."""

    status = 500
    code = 1


@dataclass(frozen=True, slots=True)
class Update:
    """What is new about one request: text and its tokens; at last an answer, or an error."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    answer: Answer | None = None
    error: BurnishError | None = None


Listener = Callable[[Update], None]


@dataclass(eq=False, slots=True)
class Ticket:
    """A request on its way, and who listens."""

    request: Request
    listener: Listener
    cancelled: bool = False
    shown: int = 0
    told: int = 0

    def report(self) -> None:
        """Tell the listener what is new, if anything is."""
        request = self.request
        ready = request.ready()
        text = ready[self.shown :]
        answer = request.answer() if request.finish else None
        if not text and answer is None:
            return
        logprobs = tuple(request.logprobs[self.told :])
        self.shown, self.told = len(ready), len(request.logprobs)
        self.listener(Update(text, logprobs, answer))

    def fail(self, error: BurnishError) -> None:
        """Tell the listener that there will be no answer."""
        self.listener(Update(error=error))


def failed(fault: Exception) -> AnswerFailed:
    """The error for a fault that should not have happened."""
    return AnswerFailed(f"The answer could not be computed: {type(fault).__name__}.")
