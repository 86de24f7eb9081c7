"""Work that goes on after the answer: batches, and files that come into a vector store.

An errand is a record in a state that somebody has to lead on. It is held by a lease, as jobs are;
whoever dies lets go of it, and the work begins again where its folder or its index stands.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex

from sqlalchemy import select, update

from burnish.serve.auth.tenant import acting_for
from burnish.serve.background.periodic import Loop, Loops
from burnish.serve.store.schema import Record, Store, unheld


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
        self._loops = Loops()

    def start(self) -> None:
        """Begin, in threads that show progress to whoever listens here."""
        self._loops.start(
            Loop("Leases", self._renew, self.lease / 4),
            *(Loop(one.kind, partial(self._next, one), self.tick) for one in self.errands.values()),
        )

    def stop(self) -> None:
        """Let go of what isn't done; it goes on when a server is there again."""
        self._loops.stop()

    def _next(self, errand: Errand) -> None:
        holder = f"{self.name}-{errand.kind}"
        record = self._claim(errand, holder)
        if record is None:
            return
        try:
            with acting_for(record.organization):
                errand.work(
                    record, lambda: self._loops.stopped.is_set() or not self._holds(record, holder)
                )
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
                .where(unheld(Record, now, self.lease))
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
        with self.store.writing() as session:
            session.execute(held.values(lease_until=time.time() + self.lease))
