"""Background tasks: batches, and the indexing of files for vector stores.

A task is an object in a state that a worker must advance. The worker holds it by a lease, as with
jobs; when the worker dies the lease runs out, and another one resumes from the task's folder or
index.

Organizations take turns, so that the tasks of one do not keep another's waiting. An error belongs
to the object that was worked on: after `MAX_FAILURES` of them the object has failed, and so it has
when the server ended `MAX_STARTS` times in a row while it worked on it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from burnish.core.disk_errors import describe_disk_error
from burnish.core.errors import StorageFailed
from burnish.core.progress import say
from burnish.serve.auth.tenant import as_organization
from burnish.serve.background.periodic import PeriodicThread, PeriodicThreads
from burnish.serve.store.objects import ObjectNotFound
from burnish.serve.store.schema import Database, StoredObject, not_leased
from burnish.serve.store.turns import Turns

MAX_FAILURES, MAX_STARTS = 3, 8
#: The keys under which an object's body counts its errors, and the starts that came to no end.
FAILURES, STARTS = "failures", "starts"
#: The holder of an object that is given back until its lease ends.
_DEFERRED = "deferred"
#: Seconds until an object is tried again after an error.
_RETRY_SECONDS = 2.0
#: Errors of the store, which are not the object's.
STORE_ERRORS = (OperationalError, InterfaceError, PoolTimeout)


@dataclass(frozen=True, slots=True)
class Turn:
    """What a task asks while it works on an object."""

    #: Whether to stop: the server ends, the lease is lost, or another organization is to follow.
    should_stop: Callable[[], bool]
    #: Whether any other object waits for this worker.
    others_wait: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """A kind of task: the objects it concerns, and the function that advances one to its end.

    `run` may be called again for the same object. It returns the seconds after which it is to be
    called again if it has to wait. `fail` ends an object as failed, with the reason. A `resumable`
    task goes on where it stopped, so that it can be interrupted for another organization's.
    """

    kind: str
    states: tuple[str, ...]
    run: Callable[[StoredObject, Turn], float | None]
    fail: Callable[[StoredObject, str], None]
    resumable: bool = False


@dataclass
class BackgroundTasks:
    """Runs each kind of task in a thread.

    Seconds: `lease` of an object, `tick` between polls, `turn` of an organization while others
    wait.
    """

    store: Database
    tasks: Mapping[str, BackgroundTask]
    lease: float = 15.0
    tick: float = 0.25
    turn: float = 10.0
    name: str = field(default_factory=lambda: f"tasks-{token_hex(8)}")

    def __post_init__(self) -> None:
        self._threads = PeriodicThreads()
        self._turns: dict[str, Turns] = {}

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

    def failing(self) -> list[str]:
        """Return the kinds of tasks whose thread keeps failing."""
        return self._threads.failing()

    def _run_next(self, task: BackgroundTask) -> None:
        holder = f"{self.name}-{task.kind}"
        record = self._claim(task, holder)
        if record is None:
            return
        pause, changes = None, dict[str, Any]()
        try:
            with as_organization(record.organization):
                if record.body[STARTS] > MAX_STARTS:
                    task.fail(record, f"The server ended {MAX_STARTS} times while it worked on it.")
                else:
                    pause = task.run(record, self._make_turn(task, record, holder))
            changes = {STARTS: 0, FAILURES: 0} if pause is None else {STARTS: 0}
        except STORE_ERRORS:
            raise
        except ObjectNotFound:  # it was deleted meanwhile
            return
        except BaseException as fault:  # noqa: BLE001 whatever it is, it is this object's
            pause = _RETRY_SECONDS
            changes = {STARTS: 0, FAILURES: self._handle_failure(task, record, fault)}
        finally:
            self._release(record, holder, pause, changes)

    def _handle_failure(
        self, task: BackgroundTask, record: StoredObject, fault: BaseException
    ) -> int:
        """Fail an object after its last try. Returns how many errors it has had.

        A full disk and the end of the server are not the object's fault. The reason names no more
        than the error's type, as its text may hold paths of this machine.
        """
        failures = int(record.body.get(FAILURES, 0))
        is_storage = isinstance(fault, StorageFailed) or describe_disk_error(fault) is not None
        if is_storage or self._threads.stopped.is_set():
            return failures
        say(f"{record.id}: {type(fault).__name__}: {fault}")
        failures += 1
        if failures >= MAX_FAILURES:
            reason = f"An unexpected error ({type(fault).__name__}) ended each of {failures} tries."
            with as_organization(record.organization):
                task.fail(record, reason)
        return failures

    def _make_turn(self, task: BackgroundTask, record: StoredObject, holder: str) -> Turn:
        end = time.monotonic() + self.turn

        def should_stop() -> bool:
            is_over = task.resumable and time.monotonic() > end
            return (
                self._threads.stopped.is_set()
                or not self._holds(record, holder)
                or (is_over and self._is_any_free(task, record.organization))
            )

        return Turn(should_stop, lambda: self._is_any_free(task))

    def _is_free(self, task: BackgroundTask) -> tuple[ColumnElement[bool], ...]:
        return (
            StoredObject.kind == task.kind,
            StoredObject.status.in_(task.states),
            not_leased(StoredObject, time.time(), self.lease),
        )

    def _is_any_free(self, task: BackgroundTask, but: str | None = None) -> bool:
        """Return whether an object waits, of an organization other than `but`."""
        query = select(StoredObject.id).where(*self._is_free(task)).limit(1)
        if but is not None:
            query = query.where(StoredObject.organization != but)
        with as_organization(None), self.store.reading() as session:
            return session.scalar(query) is not None

    def _claim(self, task: BackgroundTask, holder: str) -> StoredObject | None:
        """Take the oldest object of the organization whose turn was the longest ago."""
        is_free, turns = self._is_free(task), self._turns.setdefault(task.kind, Turns())
        oldest = (
            select(StoredObject.organization, func.min(StoredObject.seq))
            .where(*is_free)
            .group_by(StoredObject.organization)
        )
        with self.store.writing() as session:
            for organization in turns.order((row[0], row[1]) for row in session.execute(oldest)):
                record: StoredObject | None = session.scalar(
                    select(StoredObject)
                    .where(*is_free, StoredObject.organization == organization)
                    .order_by(StoredObject.seq)
                    .limit(1)
                    .with_for_update(skip_locked=True)
                )
                if record:
                    turns.take(organization)
                    record.worker, record.lease_until = holder, time.time() + self.lease
                    record.body = {**record.body, STARTS: int(record.body.get(STARTS, 0)) + 1}
                    return record
        return None

    def _release(
        self, record: StoredObject, holder: str, pause: float | None, changes: Mapping[str, int]
    ) -> None:
        """Give an object back, for others to take after `pause` seconds."""
        held = select(StoredObject).where(
            StoredObject.id == record.id, StoredObject.worker == holder
        )
        with self.store.writing() as session:
            if row := session.scalar(held.with_for_update()):
                row.worker, row.lease_until = None, None
                if pause is not None:
                    row.worker = _DEFERRED
                    row.lease_until = time.time() + min(pause, self.lease)
                kept = {key: value for key, value in row.body.items() if key not in changes}
                row.body = kept | {key: value for key, value in changes.items() if value}

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
