"""Continuous batching: requests join and leave a running batch between two tokens.

One thread owns the weights. A base and its adapters share a lane with one batch, in which every row
sees its own adapter only (`engines.weights`) and has keys and values of its own; what cannot stand
beside others has a lane to itself. Lanes take turns of a few tokens each, so that a busy one holds
nobody up. An engine in a child steps by itself: its requests are forwarded (`engines.forward`).
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

#: Tokens a lane makes for each of its requests before the next lane's turn.
_STEPS_PER_TURN = 4


class Overloaded(BurnishError):
    """More requests are waiting than the server takes."""

    status = 429


class SchedulerStopped(BurnishError):
    """The server is shutting down."""

    status = 503


@dataclass(slots=True)
class _Lane:
    """`waiting` have not begun, and know whom they ask; `tickets` are being answered. `empty` makes
    a batch to begin with."""

    new_batch: Callable[[], Batch]
    batch: Batch
    waiting: list[tuple[BatchedEngine, PendingRequest]] = field(default_factory=list)
    tickets: list[PendingRequest] = field(default_factory=list)


class Scheduler:
    """Answers requests of many clients at once, `max_batch` of them in one pass.

    `prefix_bytes` of memory are for beginnings that prompts share.
    """

    def __init__(
        self, max_batch: int = 16, max_waiting: int = 512, prefix_bytes: int = 256 * 2**20
    ) -> None:
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self._prefixes = PrefixCache(prefix_bytes)
        self._lanes: dict[int, _Lane] = {}
        self._forwarding: dict[int, ProcessQueue] = {}
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

        Raises Overloaded if too many are waiting, Stopped after `close`.
        """
        tickets = [PendingRequest(*pair) for pair in zip(requests, listeners, strict=True)]
        with self._wake:
            if self._closed:
                raise SchedulerStopped("The server is shutting down.", "Ask again when it is back.")
            if self.waiting + len(tickets) > self.max_waiting:
                raise Overloaded(f"{self.waiting} requests are waiting.", "Ask again later.")
            if isinstance(engine, ExternalEngine):
                self._process_queue(engine).add(tickets)
                return tickets
            empty = engine.new_batch
            lane = self._lanes.setdefault(engine.batch_key, _Lane(empty, empty()))
            lane.waiting += [(engine, ticket) for ticket in tickets]
            self._wake.notify()
        return tickets

    def run_between_steps(self, work: Callable[[], object]) -> Future[object]:
        """Run `work` in the thread that owns the weights, between two turns.

        Raises Stopped after `close`; what `work` raises comes out of the future.
        """
        future: Future[object] = Future()
        with self._wake:
            if self._closed:
                raise SchedulerStopped("The server is shutting down.", "Ask again when it is back.")
            self._tasks.append((work, future))
            self._wake.notify()
        return future

    def cancel(self, tickets: Sequence[PendingRequest]) -> None:
        """Nobody waits for these any more; they leave before the next token."""
        for ticket in tickets:
            ticket.cancelled = True

    def close(self) -> None:
        """Take no more requests, finish what is running, and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        for forwarding in self._forwarding.values():
            forwarding.close()

    @property
    def open(self) -> bool:
        """Whether requests are taken."""
        return not self._closed and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        forwarded = sum(one.waiting for one in self._forwarding.values())
        return forwarded + sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return self._batched_count + sum(one.running for one in self._forwarding.values())

    @property
    def _batched_count(self) -> int:
        """Those of them that this thread steps."""
        return sum(len(lane.tickets) for lane in self._lanes.values())

    def _process_queue(self, engine: ExternalEngine) -> ProcessQueue:
        if id(engine) not in self._forwarding:
            self._forwarding[id(engine)] = ProcessQueue(engine)
        return self._forwarding[id(engine)]

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (due := self._busy_lanes()) and not self._tasks and not self._closed:
                    self._wake.wait()
                errands, self._tasks = self._tasks, []
            for work, future in errands:
                _run_task(work, future)
            if not due and not errands:
                return
            for lane in due:
                self._run_turn(lane)

    def _busy_lanes(self) -> list[_Lane]:
        return [lane for lane in self._lanes.values() if lane.waiting or lane.tickets]

    def _run_turn(self, lane: _Lane) -> None:
        with self._wake:
            joining = self._admit(lane)
        self._begin(lane, joining)
        self._report(lane)
        try:
            for _ in range(_STEPS_PER_TURN):
                self._drop_cancelled(lane)
                if not lane.tickets:
                    return
                lane.batch.step()
                self._report(lane)
        except COMPUTE_ERRORS as fault:
            lane.batch = lane.new_batch()
            lost, lane.tickets = lane.tickets, []
            for ticket in lost:
                ticket.fail(answer_failed(fault))

    def _admit(self, lane: _Lane) -> list[tuple[BatchedEngine, PendingRequest]]:
        """The waiting requests that may begin; a lane with nothing running always gets one in."""
        lane.waiting = [asked for asked in lane.waiting if not asked[1].cancelled]
        room = max(self.max_batch - self._batched_count, 0 if lane.tickets else 1)
        joining, lane.waiting = lane.waiting[:room], lane.waiting[room:]
        return joining

    def _begin(self, lane: _Lane, joining: Sequence[tuple[BatchedEngine, PendingRequest]]) -> None:
        """Choose among choices, and read prompts: those behind a known beginning by themselves,
        all others together."""
        others: list[PendingRequest] = []
        for engine, tickets in _group_by_engine(joining):
            with engine.active():
                for prefix, alike in self._group_by_prefix(engine, tickets):
                    bound = [ticket for ticket in alike if ticket.request.prompt.choices]
                    free = [ticket for ticket in alike if not ticket.request.prompt.choices]
                    _start_requests(lane, bound, partial(engine.choose, prefix=prefix))
                    if prefix:
                        _start_requests(lane, free, partial(lane.batch.join, prefix=prefix))
                    else:
                        others += free
        _start_requests(lane, others, lane.batch.join)

    def _group_by_prefix(
        self, engine: BatchedEngine, tickets: Sequence[PendingRequest]
    ) -> Iterable[tuple[Prefix | None, Sequence[PendingRequest]]]:
        """Tickets of one engine by the beginning that they need not read."""
        self._prefixes.remember(engine, [ticket.request for ticket in tickets])
        found: dict[tuple[int, ...], tuple[Prefix | None, list[PendingRequest]]] = {}
        for ticket in tickets:
            prefix = None
            with suppress(*COMPUTE_ERRORS):  # then the whole prompt is read
                prefix, ticket.request.cached = self._prefixes.find(engine, ticket.request)
            found.setdefault(prefix.ids if prefix else (), (prefix, []))[1].append(ticket)
        return found.values()

    def _report(self, lane: _Lane) -> None:
        for ticket in lane.tickets:
            ticket.report()
        lane.tickets = [ticket for ticket in lane.tickets if not ticket.request.finish]

    def _drop_cancelled(self, lane: _Lane) -> None:
        for ticket in [ticket for ticket in lane.tickets if ticket.cancelled]:
            lane.batch.drop(ticket.request)
            lane.tickets.remove(ticket)


def _group_by_engine(
    asked: Sequence[tuple[BatchedEngine, PendingRequest]],
) -> Iterable[tuple[BatchedEngine, Sequence[PendingRequest]]]:
    found: dict[BatchedEngine, list[PendingRequest]] = {}
    for engine, ticket in asked:
        found.setdefault(engine, []).append(ticket)
    return found.items()


def _start_requests(
    lane: _Lane,
    tickets: Sequence[PendingRequest],
    begin: Callable[[Sequence[GenerationRequest]], None],
) -> None:
    """Let requests begin; a fault in it is theirs, and the running batch goes on."""
    if not tickets:
        return
    try:
        begin([ticket.request for ticket in tickets])
    except COMPUTE_ERRORS as fault:
        for ticket in tickets:
            ticket.fail(answer_failed(fault))
    else:
        lane.tickets += tickets


def _run_task(work: Callable[[], object], future: Future[object]) -> None:
    try:
        future.set_result(work())
    except (BurnishError, OSError, *COMPUTE_ERRORS) as fault:
        future.set_exception(fault)
