"""Continuous batching: requests join and leave a running batch between two tokens.

One thread owns the weights. A base and its adapters share a lane with one batch, in which every row
sees its own adapter only (`engines.local.multi_lora`) and has keys and values of its own; models
that can't share have a lane each. Lanes take turns of a few tokens, so that a busy one blocks
nobody. An engine in a child process steps by itself: its requests are queued
(`engines.scheduling.process_queue`).
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from burnish.core.errors import BurnishError
from burnish.engines.external.base import ExternalEngine
from burnish.engines.local.decoding import Batch, GenerationRequest, Prefix
from burnish.engines.protocol import BatchedEngine
from burnish.engines.scheduling.pending import (
    COMPUTE_ERRORS,
    Listener,
    PendingRequest,
    answer_failed,
)
from burnish.engines.scheduling.prefix_cache import PrefixCache
from burnish.engines.scheduling.process_queue import ProcessQueue
from burnish.engines.scheduling.served import ServedEngine

#: Tokens per request that a lane generates before the next lane's turn.
_STEPS_PER_TURN = 4


class Overloaded(BurnishError):
    """More requests are waiting than the server accepts."""

    status = 429


class SchedulerStopped(BurnishError):
    """The server is shutting down."""

    status = 503


@dataclass(slots=True)
class _Lane:
    """`waiting` have not begun and carry their engine; `running` are being answered. `new_batch`
    makes an empty batch."""

    new_batch: Callable[[], Batch]
    batch: Batch
    waiting: list[tuple[BatchedEngine, PendingRequest]] = field(default_factory=list)
    running: list[PendingRequest] = field(default_factory=list)


class Scheduler:
    """Answers requests of many clients at once, up to `max_batch` of them in one pass.

    `prefix_bytes` is the memory for shared prompt prefixes.
    """

    def __init__(
        self, max_batch: int = 16, max_waiting: int = 512, prefix_bytes: int = 256 * 2**20
    ) -> None:
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self._prefixes = PrefixCache(prefix_bytes)
        self._lanes: dict[int, _Lane] = {}
        self._process_queues: dict[int, ProcessQueue] = {}
        self._tasks: list[tuple[Callable[[], object], Future[object]]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="burnish-answers", daemon=True)
        self._thread.start()

    def submit(
        self,
        engine: ServedEngine,
        requests: Sequence[GenerationRequest],
        listeners: Sequence[Listener],
    ) -> list[PendingRequest]:
        """Queue requests. A listener is called from the scheduler's thread and must not block.

        Raises Overloaded if too many are waiting, SchedulerStopped after `close`.
        """
        pending = [PendingRequest(*pair) for pair in zip(requests, listeners, strict=True)]
        with self._wake:
            if self._closed:
                raise SchedulerStopped("The server is shutting down.", "Ask again when it is back.")
            if self.waiting + len(pending) > self.max_waiting:
                raise Overloaded(f"{self.waiting} requests are waiting.", "Ask again later.")
            if isinstance(engine, ExternalEngine):
                self._process_queue(engine).add(pending)
                return pending
            new_batch = engine.new_batch
            lane = self._lanes.setdefault(engine.batch_key, _Lane(new_batch, new_batch()))
            lane.waiting += [(engine, request) for request in pending]
            self._wake.notify()
        return pending

    def run_between_steps(self, work: Callable[[], object]) -> Future[object]:
        """Run `work` in the thread that owns the weights, between two turns.

        Raises SchedulerStopped after `close`; what `work` raises comes out of the future.
        """
        future: Future[object] = Future()
        with self._wake:
            if self._closed:
                raise SchedulerStopped("The server is shutting down.", "Ask again when it is back.")
            self._tasks.append((work, future))
            self._wake.notify()
        return future

    def cancel(self, requests: Sequence[PendingRequest]) -> None:
        """Cancel requests; they leave the batch before the next token."""
        for request in requests:
            request.cancelled = True

    def close(self) -> None:
        """Accept no more requests, finish the running ones, and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        for queue in self._process_queues.values():
            queue.close()

    @property
    def open(self) -> bool:
        """Whether requests are accepted."""
        return not self._closed and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """The number of requests that have not begun."""
        queued = sum(queue.waiting for queue in self._process_queues.values())
        return queued + sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def running(self) -> int:
        """The number of requests that are being answered."""
        return self._batched_count + sum(queue.running for queue in self._process_queues.values())

    @property
    def _batched_count(self) -> int:
        """The number of running requests that this thread decodes."""
        return sum(len(lane.running) for lane in self._lanes.values())

    def _process_queue(self, engine: ExternalEngine) -> ProcessQueue:
        if id(engine) not in self._process_queues:
            self._process_queues[id(engine)] = ProcessQueue(engine)
        return self._process_queues[id(engine)]

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (due := self._busy_lanes()) and not self._tasks and not self._closed:
                    self._wake.wait()
                tasks, self._tasks = self._tasks, []
            for work, future in tasks:
                _run_task(work, future)
            if not due and not tasks:
                return
            for lane in due:
                self._run_turn(lane)

    def _busy_lanes(self) -> list[_Lane]:
        return [lane for lane in self._lanes.values() if lane.waiting or lane.running]

    def _run_turn(self, lane: _Lane) -> None:
        with self._wake:
            joining = self._admit(lane)
        self._begin(lane, joining)
        self._report(lane)
        try:
            for _ in range(_STEPS_PER_TURN):
                self._drop_cancelled(lane)
                if not lane.running:
                    return
                lane.batch.step()
                self._report(lane)
        except COMPUTE_ERRORS as fault:
            lane.batch = lane.new_batch()
            lost, lane.running = lane.running, []
            for request in lost:
                request.fail(answer_failed(fault))

    def _admit(self, lane: _Lane) -> list[tuple[BatchedEngine, PendingRequest]]:
        """Return the waiting requests that may begin; an idle lane always admits one."""
        lane.waiting = [entry for entry in lane.waiting if not entry[1].cancelled]
        room = max(self.max_batch - self._batched_count, 0 if lane.running else 1)
        joining, lane.waiting = lane.waiting[:room], lane.waiting[room:]
        return joining

    def _begin(self, lane: _Lane, joining: Sequence[tuple[BatchedEngine, PendingRequest]]) -> None:
        """Answer requests with choices, and read prompts: those with a cached prefix by themselves,
        all others together."""
        others: list[PendingRequest] = []
        for engine, requests in _group_by_engine(joining):
            with engine.active():
                for prefix, group in self._group_by_prefix(engine, requests):
                    constrained = [pending for pending in group if pending.request.prompt.choices]
                    free = [pending for pending in group if not pending.request.prompt.choices]
                    _start_requests(lane, constrained, partial(engine.choose, prefix=prefix))
                    if prefix:
                        _start_requests(lane, free, partial(lane.batch.join, prefix=prefix))
                    else:
                        others += free
        _start_requests(lane, others, lane.batch.join)

    def _group_by_prefix(
        self, engine: BatchedEngine, requests: Sequence[PendingRequest]
    ) -> Iterable[tuple[Prefix | None, Sequence[PendingRequest]]]:
        """Group requests of one engine by their cached prefix."""
        self._prefixes.remember(engine, [pending.request for pending in requests])
        groups: dict[tuple[int, ...], tuple[Prefix | None, list[PendingRequest]]] = {}
        for pending in requests:
            prefix = None
            with suppress(*COMPUTE_ERRORS):  # then the whole prompt is read
                prefix, pending.request.cached = self._prefixes.find(engine, pending.request)
            groups.setdefault(prefix.ids if prefix else (), (prefix, []))[1].append(pending)
        return groups.values()

    def _report(self, lane: _Lane) -> None:
        for pending in lane.running:
            pending.report()
        lane.running = [pending for pending in lane.running if not pending.request.finish]

    def _drop_cancelled(self, lane: _Lane) -> None:
        for pending in [pending for pending in lane.running if pending.cancelled]:
            lane.batch.drop(pending.request)
            lane.running.remove(pending)


def _group_by_engine(
    entries: Sequence[tuple[BatchedEngine, PendingRequest]],
) -> Iterable[tuple[BatchedEngine, Sequence[PendingRequest]]]:
    groups: dict[BatchedEngine, list[PendingRequest]] = {}
    for engine, request in entries:
        groups.setdefault(engine, []).append(request)
    return groups.items()


def _start_requests(
    lane: _Lane,
    requests: Sequence[PendingRequest],
    start: Callable[[Sequence[GenerationRequest]], None],
) -> None:
    """Start requests; an error fails only these, and the running batch goes on."""
    if not requests:
        return
    try:
        start([pending.request for pending in requests])
    except COMPUTE_ERRORS as fault:
        for pending in requests:
            pending.fail(answer_failed(fault))
    else:
        lane.running += requests


def _run_task(work: Callable[[], object], future: Future[object]) -> None:
    try:
        future.set_result(work())
    except (BurnishError, OSError, *COMPUTE_ERRORS) as fault:
        future.set_exception(fault)
