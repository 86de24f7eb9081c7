"""A pending request and the listener that receives its updates."""

from collections.abc import Callable
from dataclasses import dataclass

from burnish.core.errors import BurnishError
from burnish.core.records import Answer, TokenLogprob
from burnish.engines.local.decoding import GenerationRequest

#: What generation can raise; out of memory is a RuntimeError.
COMPUTE_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)


class AnswerFailed(BurnishError):
    """An answer could not be computed: out of memory, or a broken model."""

    status = 500
    code = 1


@dataclass(frozen=True, slots=True)
class RequestUpdate:
    """New text and its tokens of one request; at the end the answer, or an error."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    answer: Answer | None = None
    error: BurnishError | None = None


Listener = Callable[[RequestUpdate], None]


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request in progress, and its listener."""

    request: GenerationRequest
    listener: Listener
    cancelled: bool = False
    reported_chars: int = 0
    reported_logprobs: int = 0

    def report(self) -> None:
        """Send the listener what is new, if anything."""
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
        """Send the listener an error in place of an answer."""
        self.listener(RequestUpdate(error=error))


def answer_failed(fault: Exception) -> AnswerFailed:
    """Return the error for an unexpected exception."""
    return AnswerFailed(f"The answer could not be computed: {type(fault).__name__}.")
