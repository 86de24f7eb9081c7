"""How much an organisation may keep and train: the limits of the key that asks for more.

What is counted is all that the key's organisation has, in the transaction that adds to it.
"""

from sqlalchemy import ColumnElement, Text, cast, func, select, text
from sqlalchemy.orm import Session

from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.auth.tenant import current_organization
from burnish.serve.errors import RequestError
from burnish.serve.store.schema import UNFINISHED, File, Job, StoredObject


class QuotaExceeded(RequestError):
    """The organisation has as much as the key allows. Clients do not try again by themselves."""

    status = 403

    def __init__(self, what: str) -> None:
        super().__init__(what, None, "quota_exceeded")


def check_storage_quota(session: Session, more: int) -> None:
    """Raises QuotaExceeded if `more` bytes are too many beside what is kept: files, announced
    uploads, stored responses, and what vector stores hold of their files."""
    most = CURRENT_KEY.get().most_bytes
    if most is None:
        return
    _lock_organization(session)
    kept = select(func.coalesce(func.sum(File.bytes), 0)).where(
        File.organization == current_organization()
    )
    announced = select(StoredObject.body).where(
        StoredObject.kind == "upload", StoredObject.status == "pending"
    )
    stored = int(session.scalar(kept) or 0)
    stored += sum(body["bytes"] for body in session.scalars(announced))
    stored += _sum_sizes(session, "response", func.length(cast(StoredObject.body, Text)))
    stored += _sum_sizes(
        session, "vector_store_file", StoredObject.body["usage_bytes"].as_integer()
    )
    if stored + more > most:
        raise QuotaExceeded(
            f"{more} bytes more than the {stored} that are kept would exceed the {most} that this "
            "key allows its organisation: delete files or responses first."
        )


def check_job_quota(session: Session) -> None:
    """Raises QuotaExceeded if the organisation has enough unfinished jobs."""
    most = CURRENT_KEY.get().most_jobs
    if most is None:
        return
    _lock_organization(session)
    unfinished = select(Job.id).where(Job.status.in_(UNFINISHED))
    if len(session.scalars(unfinished).all()) >= most:
        raise QuotaExceeded(
            f"The organisation has {most} unfinished jobs, as many as this key allows: wait, or "
            "cancel one."
        )


def _sum_sizes(session: Session, kind: str, size: ColumnElement[int]) -> int:
    mine = (StoredObject.kind == kind, StoredObject.organization == current_organization())
    return int(session.scalar(select(func.coalesce(func.sum(size), 0)).where(*mine)) or 0)


def _lock_organization(session: Session) -> None:
    """Nobody else of the organisation may count meanwhile. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
        session.execute(lock, {"name": f"burnish quota {current_organization()}"})
