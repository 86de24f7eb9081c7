"""The lane of an engine in a child: a thread for each of its slots, in the order of asking.

The child does its own batching, if it can; whoever finds no slot free waits here. A child that has
died costs the requests that it was answering, and is started again for the next one.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from burnish.core.errors import BurnishError
from burnish.engines.external.base import ExternalEngine
from burnish.engines.external.process import EngineFailed
from burnish.engines.scheduling.pending import COMPUTE_ERRORS, PendingRequest, answer_failed


class EngineRestarts(BurnishError):
    """The engine's process has died, and is started again."""

    status = 503
    code = 1


class ProcessQueue:
    """Requests of one engine in a child."""

    def __init__(self, engine: ExternalEngine) -> None:
        self.engine = engine
        self._waiting: list[PendingRequest] = []
        self._running: list[PendingRequest] = []
        self._change = threading.Lock()
        self._threads = ThreadPoolExecutor(engine.slots, "burnish-forwards")

    def add(self, tickets: Sequence[PendingRequest]) -> None:
        """Queue requests."""
        with self._change:
            self._waiting += tickets
        for ticket in tickets:
            self._threads.submit(self._run, ticket)

    def close(self) -> None:
        """Finish what has come in, and end the threads."""
        self._threads.shutdown()

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        with self._change:
            return sum(not ticket.cancelled for ticket in self._waiting)

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return len(self._running)

    def _run(self, ticket: PendingRequest) -> None:
        with self._change:
            self._waiting.remove(ticket)
            if ticket.cancelled:
                return
            self._running.append(ticket)
        error = self._answer(ticket)
        with self._change:
            self._running.remove(ticket)
        if error:
            ticket.fail(error)

    def _answer(self, ticket: PendingRequest) -> BurnishError | None:
        """Answer a request for as long as somebody waits; or why there is no answer."""
        try:
            self.engine.ensure_alive()
            with closing(self.engine.answer_request(ticket.request)) as pieces:
                for _ in pieces:
                    ticket.report()
                    if ticket.cancelled:
                        return None
        except EngineFailed as fault:
            return fault if self.engine.child.alive else EngineRestarts(fault.what, "Ask again.")
        except BurnishError as fault:
            return fault
        except COMPUTE_ERRORS as fault:
            return answer_failed(fault)
        return None
