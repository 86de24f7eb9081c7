"""Threads that run a function periodically and survive its errors."""

import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass

from burnish.core.progress import say

#: Seconds to wait after an error.
_PAUSE = 5.0
#: Errors in a row after which a thread counts as failing.
_FAILING_AFTER = 3


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
        self._threads: dict[PeriodicThread, threading.Thread] = {}
        #: The errors in a row of each function.
        self._errors: dict[PeriodicThread, int] = {}

    def start(self, *functions: PeriodicThread) -> None:
        """Start the threads; they report progress where the caller does."""
        for function in functions:
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(self._run, function), daemon=True)
            thread.start()
            self._threads[function] = thread

    def stop(self) -> None:
        """Tell the threads to end, and wait until they have."""
        self.stopped.set()
        for thread in self._threads.values():
            thread.join()

    def failing(self) -> list[str]:
        """Return the names of the functions that keep failing; a dead thread is started again."""
        failing = {
            function.name for function, count in self._errors.items() if count >= _FAILING_AFTER
        }
        for function, thread in list(self._threads.items()):
            if not thread.is_alive() and not self.stopped.is_set():
                failing.add(function.name)
                self.start(function)
        return sorted(failing)

    def _run(self, function: PeriodicThread) -> None:
        """Call the function until stopped; report an error and try again."""
        while not self.stopped.is_set():
            try:
                function.work()
                self._errors[function] = 0
            except BaseException as error:  # noqa: BLE001 a panic of a library is no Exception
                self._errors[function] = self._errors.get(function, 0) + 1
                say(f"{function.name}: {type(error).__name__}: {error}; trying again.")
                self.stopped.wait(_PAUSE)
            self.stopped.wait(function.pause)
