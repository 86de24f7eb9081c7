"""Threads that repeat a piece of work until they are stopped, whatever befalls it."""

import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from burnish.core.errors import BurnishError
from burnish.core.progress import say

#: What a loop survives: a store that is away, a full disk, a broken file.
_FAULTS = (SQLAlchemyError, OSError, BurnishError, RuntimeError, ValueError, LookupError, TypeError)
#: Seconds after a fault.
_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class PeriodicThread:
    """Work that is done again `pause` seconds after it was done; `name` is how its faults begin."""

    name: str
    work: Callable[[], None]
    pause: float


class PeriodicThreads:
    """A thread for each loop."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, *loops: PeriodicThread) -> None:
        """Begin, in threads that show progress to whoever listens here."""
        for loop in loops:
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(self._run, loop), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Tell the loops to end, and wait until they have."""
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, loop: PeriodicThread) -> None:
        """Until stopped; a fault is told, and what it stopped is tried again."""
        while not self.stopped.is_set():
            try:
                loop.work()
            except _FAULTS as fault:
                say(f"{loop.name}: {type(fault).__name__}: {fault}; trying again.")
                self.stopped.wait(_PAUSE)
            self.stopped.wait(loop.pause)
