"""A request in the scheduler's hands, and what whoever asked is told about it."""

from collections.abc import Callable
from dataclasses import dataclass

from burnish.core.errors import BurnishError
from burnish.core.records import Answer, TokenLogprob
from burnish.engines.local.decoding import GenerationRequest

#: What computing an answer can raise; out of memory is a RuntimeError.
COMPUTE_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)


class AnswerFailed(BurnishError):
    """An answer could not be computed: no memory, or a broken model."""

    status = 500
    code = 1


@dataclass(frozen=True, slots=True)
class RequestUpdate:
    """What is new about one request: text and its tokens; at last an answer, or an error."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    answer: Answer | None = None
    error: BurnishError | None = None


Listener = Callable[[RequestUpdate], None]


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request on its way, and who listens."""

    request: GenerationRequest
    listener: Listener
    cancelled: bool = False
    reported_chars: int = 0
    reported_logprobs: int = 0

    def report(self) -> None:
        """Tell the listener what is new, if anything is."""
        request = self.request
        ready = request.visible_text()
        text = ready[self.reported_chars :]
        answer = request.answer() if request.finish else None
        if not text and answer is None:
            return
        logprobs = tuple(request.logprobs[self.reported_logprobs :])
        self.reported_chars, self.reported_logprobs = len(ready), len(request.logprobs)
        self.listener(RequestUpdate(text, logprobs, answer))

    def fail(self, error: BurnishError) -> None:
        """Tell the listener that there will be no answer."""
        self.listener(RequestUpdate(error=error))


def answer_failed(fault: Exception) -> AnswerFailed:
    """The error for a fault that should not have happened."""
    return AnswerFailed(f"The answer could not be computed: {type(fault).__name__}.")
