"""Jobs as rows: what may happen to one in which state, and who holds it.

A worker holds a job by a lease that it keeps renewing. Everything that it writes is written only if
the job is still its own, so that a worker that was thought dead and wakes up changes nothing.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.orm import Session

from burnish.core.errors import BurnishError
from burnish.serve.errors import RequestError
from burnish.serve.store.pagination import fetch_page, find_by_id
from burnish.serve.store.quota import check_job_quota
from burnish.serve.store.schema import (
    UNFINISHED,
    Database,
    Job,
    JobCheckpoint,
    JobEventRow,
    not_leased,
)


class JobNotFound(RequestError):
    """No job of that id is here."""

    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"Could not find fine tune: {name}", "fine_tune_id", "fine_tune_not_found")


class LeaseLost(BurnishError):
    """The job isn't this worker's any more."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something to tell about a job; `key` is the same however often it is noticed."""

    key: str
    message: str
    level: str = "info"
    type: str = "message"
    data: dict[str, Any] = field(default_factory=dict)
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """A request to a job: in which states it is allowed, and what it leads to."""

    action: str
    allowed: Sequence[str]
    status: str
    message: str
    is_final: bool = False


TRANSITIONS = {
    change.action: change
    for change in (
        Transition("cancel", UNFINISHED, "cancelled", "The job has been cancelled", is_final=True),
        Transition("pause", ("queued", "running"), "paused", "The job has been paused"),
        Transition("resume", ("paused",), "queued", "The job has been resumed"),
    )
}


@dataclass(frozen=True, slots=True)
class Jobs:
    """The jobs of a store."""

    store: Database

    def add(self, job: Job, events: Iterable[JobEvent]) -> Job:
        """Write a new job and its first events, together. Raises QuotaExceeded."""
        with self.store.writing() as session:
            check_job_quota(session)
            session.add(job)
            session.flush()
            record_events(session, job, events)
        return job

    def find(self, name: str) -> Job:
        """The job of that id. Raises NoSuchJob."""
        with self.store.reading() as session:
            job: Job | None = find_by_id(session, Job, name)
        if job is None:
            raise JobNotFound(name)
        return job

    def count_unfinished(self) -> int:
        """How many of the organisation at work have not ended."""
        with self.store.reading() as session:
            return len(session.scalars(select(Job.id).where(Job.status.in_(UNFINISHED))).all())

    def page(self, query: Select[Job], after: str | None, limit: int) -> tuple[Sequence[Job], bool]:
        """Some jobs, newest first, and whether there are more."""
        with self.store.reading() as session:
            return fetch_page(session, query, after, limit)

    def page_children(
        self, table: Any, job: str, after: str | None, limit: int
    ) -> tuple[Sequence[Any], bool]:
        """Events or checkpoints of a job, newest first, and whether there are more."""
        self.find(job)
        with self.store.reading() as session:
            return fetch_page(session, select(table).where(table.job == job), after, limit)

    def transition(self, name: str, word: str) -> Job:
        """Cancel, pause or resume. Raises NoSuchJob; Refused in a state that doesn't allow it.

        Its worker sees the new state at its next look and stops the trainer.
        """
        change = TRANSITIONS[word]
        with self.store.writing() as session:
            if find_by_id(session, Job, name) is None:
                raise JobNotFound(name)
            job = session.scalars(select(Job).where(Job.id == name).with_for_update()).one()
            if job.status not in change.allowed:
                raise RequestError(f"Job {name} is {job.status}: it is too late to {word} it.")
            job.status, job.estimated_finish = change.status, None
            if change.is_final:
                job.finished_at = int(time.time())
            number = session.scalar(select(func.count()).where(JobEventRow.job == name))
            record_events(session, job, [JobEvent(f"{word}-{number}", change.message)])
        return job

    def claim(self, statuses: Sequence[str], worker: str, lease: float) -> Job | None:
        """The oldest job in one of these states that nobody holds (any more), for `lease` s."""
        now = time.time()
        with self.store.writing() as session:
            job = session.scalar(
                select(Job)
                .where(Job.status.in_(statuses))
                .where(not_leased(Job, now, lease))
                .order_by(Job.seq)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if job:
                job.worker, job.lease_until = worker, now + lease
                job.lives += 1
        return job

    def renew(self, workers: Sequence[str], lease: float) -> None:
        """Hold on to what these workers hold, for `lease` seconds from now."""
        held = update(Job).where(Job.worker.in_(workers))
        with self.store.writing() as session:
            session.execute(held.values(lease_until=time.time() + lease))

    @contextmanager
    def locked(self, name: str, worker: str) -> Iterator[tuple[Session, Job]]:
        """A transaction on a job that `worker` holds. Raises Lost if it doesn't."""
        with self.store.writing() as session:
            mine = select(Job).where(Job.id == name, Job.worker == worker).with_for_update()
            job = session.scalar(mine)
            if job is None:
                raise LeaseLost(f"{name} is held by another worker.")
            yield session, job

    def release(self, name: str, worker: str) -> None:
        """Let go of a job, if it is still held."""
        with self.store.writing() as session:
            mine = select(Job).where(Job.id == name, Job.worker == worker).with_for_update()
            if job := session.scalar(mine):
                job.worker = job.lease_until = None


def record_events(session: Session, job: Job, events: Iterable[JobEvent]) -> None:
    """Write events that haven't been written yet. Whoever calls it holds the job's row."""
    wanted = {happening.key: happening for happening in events}
    told = select(JobEventRow.key).where(
        JobEventRow.job == job.id, JobEventRow.key.in_(list(wanted))
    )
    for key in session.scalars(told):
        del wanted[key]
    rows = [
        {
            "id": _stable_id("ftevent-", job.id, one.key),
            "job": job.id,
            "key": one.key,
            "created_at": int(one.at or time.time()),
            "level": one.level,
            "type": one.type,
            "message": make_storable(one.message),
            "data": one.data,
        }
        for one in wanted.values()
    ]
    if rows:
        session.execute(insert(JobEventRow), rows)


def record_checkpoints(session: Session, job: Job, found: Iterable[dict[str, Any]]) -> None:
    """Write checkpoints: `step`, `name`, `folder`, `metrics` of each."""
    for one in found:
        own = _stable_id("ftckpt_", job.id, str(one["step"]))
        session.add(JobCheckpoint(id=own, job=job.id, created_at=int(time.time()), **one))


def fail_job(session: Session, job: Job, code: str, message: str, param: str | None = None) -> None:
    """End a job with an error, and say so in its events."""
    job.status, job.finished_at, job.estimated_finish = "failed", int(time.time()), None
    message = make_storable(message)
    job.error = {"code": code, "message": message, "param": param}
    job.worker = job.lease_until = None
    record_events(
        session,
        job,
        [JobEvent("failed", f"The job failed due to {_lowercase_first(message)}", "error")],
    )


def make_storable(message: str) -> str:
    """Text that may quote a broken file, without what UTF-8 or PostgreSQL cannot hold."""
    return message.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _lowercase_first(message: str) -> str:
    """A sentence's beginning, in the middle of another one."""
    return message[:1].lower() + message[1:]


def _stable_id(prefix: str, job: str, key: str) -> str:
    """The same for the same happening, so that it cannot be there twice."""
    return prefix + sha256(f"{job}/{key}".encode()).hexdigest()[:24]
