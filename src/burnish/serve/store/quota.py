"""Quotas of storage and jobs: the limits of the key that asks for more.

All that the key's organization has is counted, in the transaction that adds to it.
"""

from sqlalchemy import ColumnElement, Text, cast, func, select, text
from sqlalchemy.orm import Session

from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.auth.tenant import current_organization
from burnish.serve.errors import RequestError
from burnish.serve.store.schema import UNFINISHED, File, Job, StoredObject

#: The kinds of objects whose JSON counts: with metadata, attributes, names, settings.
COUNTED_KINDS = (
    "response", "batch", "vector_store", "vector_store_file", "vector_store_file_batch",
    "deployment",
)  # fmt: skip


class QuotaExceeded(RequestError):
    """The organization has as much as the key allows. The status keeps clients from retrying."""

    status = 403

    def __init__(self, what: str) -> None:
        super().__init__(what, None, "quota_exceeded")


def check_storage_quota(session: Session, added: int) -> None:
    """Raise QuotaExceeded if `added` bytes exceed the quota.

    Files, announced uploads, the indexes of vector stores, and the JSON of every object with text
    of a client count.
    """
    limit = CURRENT_KEY.get().most_bytes
    if limit is None:
        return
    _lock_organization(session)
    files = select(func.coalesce(func.sum(File.bytes), 0)).where(
        File.organization == current_organization()
    )
    announced = select(StoredObject.body).where(
        StoredObject.kind == "upload", StoredObject.status == "pending"
    )
    stored = int(session.scalar(files) or 0)
    stored += sum(body["bytes"] for body in session.scalars(announced))
    for kind in COUNTED_KINDS:
        stored += _sum_sizes(session, kind, func.length(cast(StoredObject.body, Text)))
    stored += _sum_sizes(
        session, "vector_store_file", StoredObject.body["usage_bytes"].as_integer()
    )
    if stored + added > limit:
        raise QuotaExceeded(
            f"Adding {added} bytes to the {stored} that are stored would exceed the {limit} that "
            "this key allows its organization: delete files or responses first."
        )


def check_job_quota(session: Session) -> None:
    """Raise QuotaExceeded if another unfinished job exceeds the quota."""
    limit = CURRENT_KEY.get().most_jobs
    if limit is None:
        return
    _lock_organization(session)
    unfinished = select(Job.id).where(Job.status.in_(UNFINISHED))
    if len(session.scalars(unfinished).all()) >= limit:
        raise QuotaExceeded(
            f"The organization has {limit} unfinished jobs, as many as this key allows: wait, or "
            "cancel one."
        )


def _sum_sizes(session: Session, kind: str, size: ColumnElement[int]) -> int:
    condition = (StoredObject.kind == kind, StoredObject.organization == current_organization())
    return int(session.scalar(select(func.coalesce(func.sum(size), 0)).where(*condition)) or 0)


def _lock_organization(session: Session) -> None:
    """Serialize the organization's quota checks. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
        session.execute(lock, {"name": f"burnish quota {current_organization()}"})
