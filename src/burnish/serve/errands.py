"""Work that goes on after the answer: batches, and files that come into a vector store.

An errand is a record in a state that somebody has to lead on. It is held by a lease, as jobs are;
whoever dies lets go of it, and the work begins again where its folder or its index stands.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex

from sqlalchemy import or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from burnish.core.errors import BurnishError
from burnish.core.progress import say
from burnish.serve.store import Record, Store

#: What a thread survives: a store that is away, a full disk, a broken file.
_FAULTS = (SQLAlchemyError, OSError, BurnishError, RuntimeError, ValueError, LookupError, TypeError)
_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Errand:
    """One kind of work: the records it is about, and what leads one on until it has ended.

    `work` (record, whether it is to stop) may be called again for the same record.
    """

    kind: str
    states: tuple[str, ...]
    work: Callable[[Record, Callable[[], bool]], None]


@dataclass
class Errands:
    """A thread for each kind of errand. Seconds: `lease` of a record, `tick` of a look."""

    store: Store
    errands: Mapping[str, Errand]
    lease: float = 15.0
    tick: float = 0.25
    name: str = field(default_factory=lambda: f"errands-{token_hex(8)}")

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin, in threads that show progress to whoever listens here."""
        works: list[Callable[[], None]] = [self._renew]
        works += [lambda one=one: self._run(one) for one in self.errands.values()]  # type: ignore[misc]
        for work in works:
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(work,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Let go of what isn't done; it goes on when a server is there again."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, errand: Errand) -> None:
        while not self._stop.is_set():
            try:
                self._next(errand)
            except _FAULTS as fault:
                say(f"{errand.kind}: {type(fault).__name__}: {fault}; trying again.")
                self._stop.wait(_PAUSE)
            self._stop.wait(self.tick)

    def _next(self, errand: Errand) -> None:
        holder = f"{self.name}-{errand.kind}"
        record = self._claim(errand, holder)
        if record is None:
            return
        try:
            errand.work(record, lambda: self._stop.is_set() or not self._holds(record, holder))
        finally:
            mine = update(Record).where(Record.id == record.id, Record.worker == holder)
            with self.store.writing() as session:
                session.execute(mine.values(worker=None, lease_until=None))

    def _claim(self, errand: Errand, holder: str) -> Record | None:
        now = time.time()
        with self.store.writing() as session:
            record = session.scalar(
                select(Record)
                .where(Record.kind == errand.kind, Record.status.in_(errand.states))
                .where(or_(Record.worker.is_(None), Record.lease_until < now))
                .order_by(Record.seq)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if record:
                record.worker, record.lease_until = holder, now + self.lease
        return record

    def _holds(self, record: Record, holder: str) -> bool:
        with self.store.reading() as session:
            return session.scalar(select(Record.worker).where(Record.id == record.id)) == holder

    def _renew(self) -> None:
        held = update(Record).where(Record.worker.like(f"{self.name}-%"))
        while not self._stop.wait(self.lease / 4):
            try:
                with self.store.writing() as session:
                    session.execute(held.values(lease_until=time.time() + self.lease))
            except SQLAlchemyError as fault:
                say(f"Leases: {fault}; trying again.")
