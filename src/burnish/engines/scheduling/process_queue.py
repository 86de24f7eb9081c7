"""The request queue of an engine in a child process: one thread per slot, first come, first served.

The child does its own batching, if it can; requests without a free slot wait here. A child that
dies loses the requests it was answering, and is restarted for the next one.
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
    """The engine's process has died and is being restarted."""

    status = 503
    code = 1


class ProcessQueue:
    """The requests of one engine in a child process."""

    def __init__(self, engine: ExternalEngine) -> None:
        self.engine = engine
        self._waiting: list[PendingRequest] = []
        self._running: list[PendingRequest] = []
        self._change = threading.Lock()
        self._threads = ThreadPoolExecutor(engine.slots, "burnish-forwards")

    def add(self, requests: Sequence[PendingRequest]) -> None:
        """Queue requests."""
        with self._change:
            self._waiting += requests
        for request in requests:
            self._threads.submit(self._run, request)

    def close(self) -> None:
        """Finish queued requests, and end the threads."""
        self._threads.shutdown()

    @property
    def waiting(self) -> int:
        """The number of requests that have not begun."""
        with self._change:
            return sum(not request.cancelled for request in self._waiting)

    @property
    def running(self) -> int:
        """The number of requests that are being answered."""
        return len(self._running)

    def _run(self, request: PendingRequest) -> None:
        with self._change:
            self._waiting.remove(request)
            if request.cancelled:
                return
            self._running.append(request)
        error = self._answer(request)
        with self._change:
            self._running.remove(request)
        if error:
            request.fail(error)

    def _answer(self, pending: PendingRequest) -> BurnishError | None:
        """Answer a request until it is finished or cancelled; return an error if it failed."""
        try:
            self.engine.ensure_alive()
            with closing(self.engine.answer_request(pending.request)) as pieces:
                for _ in pieces:
                    pending.report()
                    if pending.cancelled:
                        return None
        except EngineFailed as fault:
            return fault if self.engine.child.alive else EngineRestarts(fault.what, "Ask again.")
        except BurnishError as fault:
            return fault
        except COMPUTE_ERRORS as fault:
            return answer_failed(fault)
        return None
