"""Threads that run a function periodically and survive its errors."""

import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from burnish.core.errors import BurnishError
from burnish.core.progress import say

#: The errors that a thread survives: an unreachable store, a full disk, a broken file.
_ERRORS = (SQLAlchemyError, OSError, BurnishError, RuntimeError, ValueError, LookupError, TypeError)
#: Seconds to wait after an error.
_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class PeriodicThread:
    """A function to call again `pause` seconds after it returned; `name` prefixes its errors."""

    name: str
    work: Callable[[], None]
    pause: float


class PeriodicThreads:
    """Runs each function in a thread of its own."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, *functions: PeriodicThread) -> None:
        """Start the threads; they report progress where the caller does."""
        for function in functions:
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(self._run, function), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Tell the threads to end, and wait until they have."""
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, function: PeriodicThread) -> None:
        """Call the function until stopped; report an error and try again."""
        while not self.stopped.is_set():
            try:
                function.work()
            except _ERRORS as error:
                say(f"{function.name}: {type(error).__name__}: {error}; trying again.")
                self.stopped.wait(_PAUSE)
            self.stopped.wait(function.pause)
