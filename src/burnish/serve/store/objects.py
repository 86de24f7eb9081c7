"""Objects that clients create besides files and jobs, as rows of one table."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from burnish.serve.errors import RequestError
from burnish.serve.store.pagination import Order, fetch_page
from burnish.serve.store.quota import COUNTED_KINDS, check_storage_quota
from burnish.serve.store.schema import Database, StoredObject


class ObjectNotFound(RequestError):
    """No object of that kind has that id."""

    status = 404

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"No {kind.replace('_', ' ')} found with id '{name}'.", "id", "not_found")


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """The objects of a store. `parent` is the id of the object that another one belongs to."""

    store: Database

    def add(self, record: StoredObject, size: int = 0) -> StoredObject:
        """Write a new object that takes `size` bytes of the quota besides its JSON.

        Raises QuotaExceeded.
        """
        with self.store.writing() as session:
            size += len(json.dumps(record.body)) if record.kind in COUNTED_KINDS else 0
            if size:
                check_storage_quota(session, size)
            session.add(record)
        return record

    def find(self, kind: str, name: str, parent: str | None = None) -> StoredObject:
        """Find an object by its kind and id. Raises ObjectNotFound."""
        with self.store.reading() as session:
            return _find(session, kind, name, parent)

    def all(self, kind: str, parent: str | None = None) -> Sequence[StoredObject]:
        """Return all objects of a kind, or those that belong to `parent`, oldest first."""
        query = select(StoredObject).where(StoredObject.kind == kind).order_by(StoredObject.seq)
        if parent is not None:
            query = query.where(StoredObject.parent == parent)
        with self.store.reading() as session:
            return session.scalars(query).all()

    def page(
        self, kind: str, parent: str | None, after: str | None, limit: int, order: Order = "desc"
    ) -> tuple[Sequence[StoredObject], bool]:
        """Return one page of a kind, and whether there are more."""
        query = select(StoredObject).where(StoredObject.kind == kind)
        if parent is not None:
            query = query.where(StoredObject.parent == parent)
        with self.store.reading() as session:
            return fetch_page(session, query, after, limit, order)

    @contextmanager
    def editing(self, kind: str, name: str) -> Iterator[StoredObject]:
        """Lock an object to change it; committed when the block ends. Raises ObjectNotFound."""
        with self.store.writing() as session:
            yield _find(session, kind, name, locked=True)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and those that belong to it. Raises ObjectNotFound."""
        with self.store.writing() as session:
            session.delete(_find(session, kind, name))
            for child in session.scalars(select(StoredObject).where(StoredObject.parent == name)):
                session.delete(child)


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
