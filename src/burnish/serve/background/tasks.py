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

from burnish.serve.auth.tenant import as_organization
from burnish.serve.background.periodic import PeriodicThread, PeriodicThreads
from burnish.serve.store.schema import Database, StoredObject, not_leased


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """One kind of work: the records it is about, and what leads one on until it has ended.

    `work` (record, whether it is to stop) may be called again for the same record.
    """

    kind: str
    states: tuple[str, ...]
    run: Callable[[StoredObject, Callable[[], bool]], None]


@dataclass
class BackgroundTasks:
    """A thread for each kind of errand. Seconds: `lease` of a record, `tick` of a look."""

    store: Database
    tasks: Mapping[str, BackgroundTask]
    lease: float = 15.0
    tick: float = 0.25
    name: str = field(default_factory=lambda: f"errands-{token_hex(8)}")

    def __post_init__(self) -> None:
        self._loops = PeriodicThreads()

    def start(self) -> None:
        """Begin, in threads that show progress to whoever listens here."""
        self._loops.start(
            PeriodicThread("Leases", self._renew_leases, self.lease / 4),
            *(
                PeriodicThread(one.kind, partial(self._run_next, one), self.tick)
                for one in self.tasks.values()
            ),
        )

    def stop(self) -> None:
        """Let go of what isn't done; it goes on when a server is there again."""
        self._loops.stop()

    def _run_next(self, task: BackgroundTask) -> None:
        holder = f"{self.name}-{task.kind}"
        record = self._claim(task, holder)
        if record is None:
            return
        try:
            with as_organization(record.organization):
                task.run(
                    record, lambda: self._loops.stopped.is_set() or not self._holds(record, holder)
                )
        finally:
            mine = update(StoredObject).where(
                StoredObject.id == record.id, StoredObject.worker == holder
            )
            with self.store.writing() as session:
                session.execute(mine.values(worker=None, lease_until=None))

    def _claim(self, task: BackgroundTask, holder: str) -> StoredObject | None:
        now = time.time()
        with self.store.writing() as session:
            record = session.scalar(
                select(StoredObject)
                .where(StoredObject.kind == task.kind, StoredObject.status.in_(task.states))
                .where(not_leased(StoredObject, now, self.lease))
                .order_by(StoredObject.seq)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if record:
                record.worker, record.lease_until = holder, now + self.lease
        return record

    def _holds(self, record: StoredObject, holder: str) -> bool:
        with self.store.reading() as session:
            return (
                session.scalar(select(StoredObject.worker).where(StoredObject.id == record.id))
                == holder
            )

    def _renew_leases(self) -> None:
        held = update(StoredObject).where(StoredObject.worker.like(f"{self.name}-%"))
        with self.store.writing() as session:
            session.execute(held.values(lease_until=time.time() + self.lease))
