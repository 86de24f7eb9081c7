"""Background tasks: batches, and the indexing of files for vector stores.

A task is an object in a state that a worker must advance. The worker holds it by a lease, as with
jobs; when the worker dies the lease runs out, and another one resumes from the task's folder or
index.
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
    """A kind of task: the objects it concerns, and the function that advances one to its end.

    `run` (object, whether to stop) may be called again for the same object.
    """

    kind: str
    states: tuple[str, ...]
    run: Callable[[StoredObject, Callable[[], bool]], None]


@dataclass
class BackgroundTasks:
    """Runs each kind of task in a thread. Seconds: `lease` of an object, `tick` between polls."""

    store: Database
    tasks: Mapping[str, BackgroundTask]
    lease: float = 15.0
    tick: float = 0.25
    name: str = field(default_factory=lambda: f"tasks-{token_hex(8)}")

    def __post_init__(self) -> None:
        self._threads = PeriodicThreads()

    def start(self) -> None:
        """Start the threads; they report progress where the caller does."""
        self._threads.start(
            PeriodicThread("Leases", self._renew_leases, self.lease / 4),
            *(
                PeriodicThread(task.kind, partial(self._run_next, task), self.tick)
                for task in self.tasks.values()
            ),
        )

    def stop(self) -> None:
        """Release unfinished tasks; they resume when a server runs again."""
        self._threads.stop()

    def _run_next(self, task: BackgroundTask) -> None:
        holder = f"{self.name}-{task.kind}"
        record = self._claim(task, holder)
        if record is None:
            return
        try:
            with as_organization(record.organization):
                task.run(
                    record,
                    lambda: self._threads.stopped.is_set() or not self._holds(record, holder),
                )
        finally:
            release = update(StoredObject).where(
                StoredObject.id == record.id, StoredObject.worker == holder
            )
            with self.store.writing() as session:
                session.execute(release.values(worker=None, lease_until=None))

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
        renew = update(StoredObject).where(StoredObject.worker.like(f"{self.name}-%"))
        with self.store.writing() as session:
            session.execute(renew.values(lease_until=time.time() + self.lease))
