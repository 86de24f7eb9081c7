"""Jobs as rows: their state transitions, and the leases of their workers.

A worker holds a job by a lease that it keeps renewing. It writes only while it holds the job, so
that a worker that was taken for dead and wakes up changes nothing (fencing).
"""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
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
from burnish.serve.store.turns import Turns


class JobNotFound(RequestError):
    """No job has that id."""

    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"Could not find fine tune: {name}", "fine_tune_id", "fine_tune_not_found")


class LeaseLost(BurnishError):
    """The job is no longer held by this worker."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of a job at Unix time `at`. Its `key` keeps it from being recorded twice."""

    key: str
    message: str
    level: str = "info"
    type: str = "message"
    data: dict[str, Any] = field(default_factory=dict)
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """A change that clients can request: the states that allow it, and the state it leads to."""

    action: str
    allowed: Sequence[str]
    status: str
    message: str
    is_final: bool = False


TRANSITIONS = {
    transition.action: transition
    for transition in (
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
        """Write a new job and its first events in one transaction. Raises QuotaExceeded."""
        with self.store.writing() as session:
            check_job_quota(session)
            session.add(job)
            session.flush()
            record_events(session, job, events)
        return job

    def find(self, name: str) -> Job:
        """Find a job by its id. Raises JobNotFound."""
        with self.store.reading() as session:
            job: Job | None = find_by_id(session, Job, name)
        if job is None:
            raise JobNotFound(name)
        return job

    def count_unfinished(self) -> int:
        """Count the jobs of the current organization that have not ended."""
        with self.store.reading() as session:
            return len(session.scalars(select(Job.id).where(Job.status.in_(UNFINISHED))).all())

    def page(self, query: Select[Job], after: str | None, limit: int) -> tuple[Sequence[Job], bool]:
        """Return one page of jobs, newest first, and whether there are more."""
        with self.store.reading() as session:
            return fetch_page(session, query, after, limit)

    def page_children(
        self, table: Any, job: str, after: str | None, limit: int
    ) -> tuple[Sequence[Any], bool]:
        """Return one page of a job's events or checkpoints, newest first, and if there are more."""
        self.find(job)
        with self.store.reading() as session:
            return fetch_page(session, select(table).where(table.job == job), after, limit)

    def transition(self, name: str, action: str) -> Job:
        """Cancel, pause or resume a job. Raises JobNotFound; RequestError if its state forbids it.

        The worker sees the new state at its next poll and stops the trainer.
        """
        transition = TRANSITIONS[action]
        with self.store.writing() as session:
            if find_by_id(session, Job, name) is None:
                raise JobNotFound(name)
            job = session.scalars(select(Job).where(Job.id == name).with_for_update()).one()
            if job.status not in transition.allowed:
                raise RequestError(f"Job {name} is {job.status}: it is too late to {action} it.")
            job.status, job.estimated_finish = transition.status, None
            if transition.is_final:
                job.finished_at = int(time.time())
            number = session.scalar(select(func.count()).where(JobEventRow.job == name))
            record_events(session, job, [JobEvent(f"{action}-{number}", transition.message)])
        return job

    def claim(
        self,
        statuses: Sequence[str],
        worker: str,
        lease: float,
        turns: Turns | None = None,
        deferred: Collection[str] = (),
    ) -> Job | None:
        """Take a job in one of these states that no worker holds, for `lease` seconds.

        It is the oldest one of the organization whose turn is next, without those `deferred`.
        """
        now, turns = time.time(), turns or Turns()
        is_free = (
            Job.status.in_(statuses),
            not_leased(Job, now, lease),
            Job.id.not_in(deferred),
        )
        oldest = select(Job.organization, func.min(Job.seq)).where(*is_free)
        with self.store.writing() as session:
            rows = session.execute(oldest.group_by(Job.organization))
            for organization in turns.order((row[0], row[1]) for row in rows):
                job: Job | None = session.scalar(
                    select(Job)
                    .where(*is_free, Job.organization == organization)
                    .order_by(Job.seq)
                    .limit(1)
                    .with_for_update(skip_locked=True)
                )
                if job:
                    turns.take(organization)
                    job.worker, job.lease_until = worker, now + lease
                    job.lives += 1
                    return job
        return None

    def renew(self, workers: Sequence[str], lease: float) -> None:
        """Renew the leases of these workers, for `lease` seconds from now."""
        renew = update(Job).where(Job.worker.in_(workers))
        with self.store.writing() as session:
            session.execute(renew.values(lease_until=time.time() + lease))

    @contextmanager
    def locked(self, name: str, worker: str) -> Iterator[tuple[Session, Job]]:
        """Open a transaction on a job that `worker` holds. Raises LeaseLost if it does not."""
        with self.store.writing() as session:
            held = select(Job).where(Job.id == name, Job.worker == worker).with_for_update()
            job = session.scalar(held)
            if job is None:
                raise LeaseLost(f"{name} is held by another worker.")
            yield session, job

    def release(self, name: str, worker: str) -> None:
        """Give up the lease of a job, if `worker` still holds it."""
        with self.store.writing() as session:
            held = select(Job).where(Job.id == name, Job.worker == worker).with_for_update()
            if job := session.scalar(held):
                job.worker = job.lease_until = None


def record_events(session: Session, job: Job, events: Iterable[JobEvent]) -> None:
    """Write the events that are not recorded yet. The caller has locked the job's row."""
    new = {event.key: event for event in events}
    recorded = select(JobEventRow.key).where(
        JobEventRow.job == job.id, JobEventRow.key.in_(list(new))
    )
    for key in session.scalars(recorded):
        del new[key]
    rows = [
        {
            "id": _stable_id("ftevent-", job.id, event.key),
            "job": job.id,
            "key": event.key,
            "created_at": int(event.at or time.time()),
            "level": event.level,
            "type": event.type,
            "message": make_storable(event.message),
            "data": event.data,
        }
        for event in new.values()
    ]
    if rows:
        session.execute(insert(JobEventRow), rows)


def record_checkpoints(session: Session, job: Job, checkpoints: Iterable[dict[str, Any]]) -> None:
    """Write checkpoints, each with `step`, `name`, `folder` and `metrics`."""
    now = int(time.time())
    for checkpoint in checkpoints:
        checkpoint_id = _stable_id("ftckpt_", job.id, str(checkpoint["step"]))
        session.add(JobCheckpoint(id=checkpoint_id, job=job.id, created_at=now, **checkpoint))


def fail_job(session: Session, job: Job, code: str, message: str, param: str | None = None) -> None:
    """End a job with an error, and record the event."""
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
    """Replace the characters of a message that UTF-8 or PostgreSQL cannot hold."""
    return message.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _lowercase_first(message: str) -> str:
    """Begin a sentence with a small letter, to continue another one."""
    return message[:1].lower() + message[1:]


def _stable_id(prefix: str, job: str, key: str) -> str:
    """Derive an id from a key, so that the same thing cannot be recorded twice."""
    return prefix + sha256(f"{job}/{key}".encode()).hexdigest()[:24]
