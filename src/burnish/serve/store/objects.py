"""What clients make beside files and jobs, as rows of one table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from burnish.serve.errors import RequestError
from burnish.serve.store.pagination import Order, fetch_page
from burnish.serve.store.quota import check_storage_quota
from burnish.serve.store.schema import Database, StoredObject


class ObjectNotFound(RequestError):
    """Nothing of that kind and id is here."""

    status = 404

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"No {kind.replace('_', ' ')} found with id '{name}'.", "id", "not_found")


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """The records of a store. `parent` is the id of what a record belongs to."""

    store: Database

    def add(self, record: StoredObject, more: int = 0) -> StoredObject:
        """Write a new one, for which the organisation keeps `more` bytes. Raises QuotaExceeded."""
        with self.store.writing() as session:
            if more:
                check_storage_quota(session, more)
            session.add(record)
        return record

    def find(self, kind: str, name: str, parent: str | None = None) -> StoredObject:
        """The record of that kind and id. Raises NoSuchRecord."""
        with self.store.reading() as session:
            return _find(session, kind, name, parent)

    def all(self, kind: str, parent: str | None = None) -> Sequence[StoredObject]:
        """All of a kind that belong to `parent` (or all), oldest first."""
        query = select(StoredObject).where(StoredObject.kind == kind).order_by(StoredObject.seq)
        if parent is not None:
            query = query.where(StoredObject.parent == parent)
        with self.store.reading() as session:
            return session.scalars(query).all()

    def page(
        self, kind: str, parent: str | None, after: str | None, limit: int, order: Order = "desc"
    ) -> tuple[Sequence[StoredObject], bool]:
        """Some of a kind, and whether there are more."""
        query = select(StoredObject).where(StoredObject.kind == kind)
        if parent is not None:
            query = query.where(StoredObject.parent == parent)
        with self.store.reading() as session:
            return fetch_page(session, query, after, limit, order)

    @contextmanager
    def editing(self, kind: str, name: str) -> Iterator[StoredObject]:
        """A record to change; committed at the end of the block. Raises NoSuchRecord."""
        with self.store.writing() as session:
            yield _find(session, kind, name, locked=True)

    def delete(self, kind: str, name: str) -> None:
        """Forget a record and what belongs to it. Raises NoSuchRecord."""
        with self.store.writing() as session:
            session.delete(_find(session, kind, name))
            for part in session.scalars(select(StoredObject).where(StoredObject.parent == name)):
                session.delete(part)


def _find(
    session: Session, kind: str, name: str, parent: str | None = None, locked: bool = False
) -> StoredObject:
    if "\0" in name or not name.isascii():
        raise ObjectNotFound(kind, "?")
    query = select(StoredObject).where(StoredObject.id == name, StoredObject.kind == kind)
    if parent is not None:
        query = query.where(StoredObject.parent == parent)
    record = session.scalar(query.with_for_update() if locked else query)
    if record is None:
        raise ObjectNotFound(kind, name)
    return record


def object_body(record: StoredObject, kind: str) -> dict[str, Any]:
    """A record as clients read it: id, kind and time, then its body."""
    return {"id": record.id, "object": kind, "created_at": record.created_at, **record.body}
