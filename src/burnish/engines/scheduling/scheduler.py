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
from burnish.engines.external.base import ChildEngine
from burnish.engines.local.decoding import Batch, Prefix, Request
from burnish.engines.protocol import Stepped
from burnish.engines.scheduling.pending import FAULTS, Listener, Ticket, failed
from burnish.engines.scheduling.prefix_cache import Prefixes
from burnish.engines.scheduling.process_queue import Forwarding
from burnish.engines.scheduling.served import Served

#: Tokens a lane makes for each of its requests before the next lane's turn.
_TURN = 4


class Overloaded(BurnishError):
    """More requests are waiting than the server takes."""

    status = 429


class Stopped(BurnishError):
    """The server is shutting down."""

    status = 503


@dataclass(slots=True)
class _Lane:
    """`waiting` have not begun, and know whom they ask; `tickets` are being answered. `empty` makes
    a batch to begin with."""

    empty: Callable[[], Batch]
    running: Batch
    waiting: list[tuple[Stepped, Ticket]] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)


class Scheduler:
    """Answers requests of many clients at once, `max_batch` of them in one pass.

    `prefix_bytes` of memory are for beginnings that prompts share.
    """

    def __init__(
        self, max_batch: int = 16, max_waiting: int = 512, prefix_bytes: int = 256 * 2**20
    ) -> None:
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self._prefixes = Prefixes(prefix_bytes)
        self._lanes: dict[int, _Lane] = {}
        self._forwarding: dict[int, Forwarding] = {}
        self._errands: list[tuple[Callable[[], object], Future[object]]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="burnish-answers", daemon=True)
        self._thread.start()

    def submit(
        self, engine: Served, requests: Sequence[Request], listeners: Sequence[Listener]
    ) -> list[Ticket]:
        """Queue requests. A listener is called from the scheduler's thread and must not block.

        Raises Overloaded if too many are waiting, Stopped after `close`.
        """
        tickets = [Ticket(*pair) for pair in zip(requests, listeners, strict=True)]
        with self._wake:
            if self._closed:
                raise Stopped("The server is shutting down.", "Ask again when it is back.")
            if self.waiting + len(tickets) > self.max_waiting:
                raise Overloaded(f"{self.waiting} requests are waiting.", "Ask again later.")
            if isinstance(engine, ChildEngine):
                self._forward(engine).add(tickets)
                return tickets
            empty = engine.running
            lane = self._lanes.setdefault(engine.batch_key, _Lane(empty, empty()))
            lane.waiting += [(engine, ticket) for ticket in tickets]
            self._wake.notify()
        return tickets

    def do(self, work: Callable[[], object]) -> Future[object]:
        """Run `work` in the thread that owns the weights, between two turns.

        Raises Stopped after `close`; what `work` raises comes out of the future.
        """
        future: Future[object] = Future()
        with self._wake:
            if self._closed:
                raise Stopped("The server is shutting down.", "Ask again when it is back.")
            self._errands.append((work, future))
            self._wake.notify()
        return future

    def cancel(self, tickets: Sequence[Ticket]) -> None:
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
        return self._stepped + sum(one.running for one in self._forwarding.values())

    @property
    def _stepped(self) -> int:
        """Those of them that this thread steps."""
        return sum(len(lane.tickets) for lane in self._lanes.values())

    def _forward(self, engine: ChildEngine) -> Forwarding:
        if id(engine) not in self._forwarding:
            self._forwarding[id(engine)] = Forwarding(engine)
        return self._forwarding[id(engine)]

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (due := self._due()) and not self._errands and not self._closed:
                    self._wake.wait()
                errands, self._errands = self._errands, []
            for work, future in errands:
                _run_errand(work, future)
            if not due and not errands:
                return
            for lane in due:
                self._turn(lane)

    def _due(self) -> list[_Lane]:
        return [lane for lane in self._lanes.values() if lane.waiting or lane.tickets]

    def _turn(self, lane: _Lane) -> None:
        with self._wake:
            joining = self._admit(lane)
        self._begin(lane, joining)
        self._report(lane)
        try:
            for _ in range(_TURN):
                self._drop_cancelled(lane)
                if not lane.tickets:
                    return
                lane.running.step()
                self._report(lane)
        except FAULTS as fault:
            lane.running = lane.empty()
            lost, lane.tickets = lane.tickets, []
            for ticket in lost:
                ticket.fail(failed(fault))

    def _admit(self, lane: _Lane) -> list[tuple[Stepped, Ticket]]:
        """The waiting requests that may begin; a lane with nothing running always gets one in."""
        lane.waiting = [asked for asked in lane.waiting if not asked[1].cancelled]
        room = max(self.max_batch - self._stepped, 0 if lane.tickets else 1)
        joining, lane.waiting = lane.waiting[:room], lane.waiting[room:]
        return joining

    def _begin(self, lane: _Lane, joining: Sequence[tuple[Stepped, Ticket]]) -> None:
        """Choose among choices, and read prompts: those behind a known beginning by themselves,
        all others together."""
        others: list[Ticket] = []
        for engine, tickets in _by_engine(joining):
            with engine.active():
                for prefix, alike in self._by_beginning(engine, tickets):
                    bound = [ticket for ticket in alike if ticket.request.prompt.choices]
                    free = [ticket for ticket in alike if not ticket.request.prompt.choices]
                    _enter(lane, bound, partial(engine.choose, prefix=prefix))
                    if prefix:
                        _enter(lane, free, partial(lane.running.join, prefix=prefix))
                    else:
                        others += free
        _enter(lane, others, lane.running.join)

    def _by_beginning(
        self, engine: Stepped, tickets: Sequence[Ticket]
    ) -> Iterable[tuple[Prefix | None, Sequence[Ticket]]]:
        """Tickets of one engine by the beginning that they need not read."""
        self._prefixes.remember(engine, [ticket.request for ticket in tickets])
        found: dict[tuple[int, ...], tuple[Prefix | None, list[Ticket]]] = {}
        for ticket in tickets:
            prefix = None
            with suppress(*FAULTS):  # then the whole prompt is read
                prefix, ticket.request.cached = self._prefixes.find(engine, ticket.request)
            found.setdefault(prefix.ids if prefix else (), (prefix, []))[1].append(ticket)
        return found.values()

    def _report(self, lane: _Lane) -> None:
        for ticket in lane.tickets:
            ticket.report()
        lane.tickets = [ticket for ticket in lane.tickets if not ticket.request.finish]

    def _drop_cancelled(self, lane: _Lane) -> None:
        for ticket in [ticket for ticket in lane.tickets if ticket.cancelled]:
            lane.running.drop(ticket.request)
            lane.tickets.remove(ticket)


def _by_engine(
    asked: Sequence[tuple[Stepped, Ticket]],
) -> Iterable[tuple[Stepped, Sequence[Ticket]]]:
    found: dict[Stepped, list[Ticket]] = {}
    for engine, ticket in asked:
        found.setdefault(engine, []).append(ticket)
    return found.items()


def _enter(
    lane: _Lane, tickets: Sequence[Ticket], begin: Callable[[Sequence[Request]], None]
) -> None:
    """Let requests begin; a fault in it is theirs, and the running batch goes on."""
    if not tickets:
        return
    try:
        begin([ticket.request for ticket in tickets])
    except FAULTS as fault:
        for ticket in tickets:
            ticket.fail(failed(fault))
    else:
        lane.tickets += tickets


def _run_errand(work: Callable[[], object], future: Future[object]) -> None:
    try:
        future.set_result(work())
    except (BurnishError, OSError, *FAULTS) as fault:
        future.set_exception(fault)
