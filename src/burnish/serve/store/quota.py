"""How much an organisation may keep and train: the limits of the key that asks for more.

What is counted is all that the key's organisation has, in the transaction that adds to it.
"""

from sqlalchemy import ColumnElement, Text, cast, func, select, text
from sqlalchemy.orm import Session

from burnish.serve.auth.keys import CALLER
from burnish.serve.auth.tenant import owner
from burnish.serve.errors import Refused
from burnish.serve.store.schema import UNFINISHED, File, Job, Record


class QuotaExceeded(Refused):
    """The organisation has as much as the key allows. Clients do not try again by themselves."""

    status = 403

    def __init__(self, what: str) -> None:
        super().__init__(what, None, "quota_exceeded")


def make_room_for_bytes(session: Session, more: int) -> None:
    """Raises QuotaExceeded if `more` bytes are too many beside what is kept: files, announced
    uploads, stored responses, and what vector stores hold of their files."""
    most = CALLER.get().most_bytes
    if most is None:
        return
    _one_at_a_time(session)
    kept = select(func.coalesce(func.sum(File.bytes), 0)).where(File.organization == owner())
    announced = select(Record.body).where(Record.kind == "upload", Record.status == "pending")
    stored = int(session.scalar(kept) or 0)
    stored += sum(body["bytes"] for body in session.scalars(announced))
    stored += _sum(session, "response", func.length(cast(Record.body, Text)))
    stored += _sum(session, "vector_store_file", Record.body["usage_bytes"].as_integer())
    if stored + more > most:
        raise QuotaExceeded(
            f"{more} bytes more than the {stored} that are kept would exceed the {most} that this "
            "key allows its organisation: delete files or responses first."
        )


def make_room_for_a_job(session: Session) -> None:
    """Raises QuotaExceeded if the organisation has enough unfinished jobs."""
    most = CALLER.get().most_jobs
    if most is None:
        return
    _one_at_a_time(session)
    unfinished = select(Job.id).where(Job.status.in_(UNFINISHED))
    if len(session.scalars(unfinished).all()) >= most:
        raise QuotaExceeded(
            f"The organisation has {most} unfinished jobs, as many as this key allows: wait, or "
            "cancel one."
        )


def _sum(session: Session, kind: str, size: ColumnElement[int]) -> int:
    mine = (Record.kind == kind, Record.organization == owner())
    return int(session.scalar(select(func.coalesce(func.sum(size), 0)).where(*mine)) or 0)


def _one_at_a_time(session: Session) -> None:
    """Nobody else of the organisation may count meanwhile. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
        session.execute(lock, {"name": f"burnish quota {owner()}"})
