"""What clients make beside files and jobs, as rows of one table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from burnish.serve.errors import Refused
from burnish.serve.store.pagination import Order, page
from burnish.serve.store.quota import make_room_for_bytes
from burnish.serve.store.schema import Record, Store


class NoSuchRecord(Refused):
    """Nothing of that kind and id is here."""

    status = 404

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"No {kind.replace('_', ' ')} found with id '{name}'.", "id", "not_found")


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a store. `parent` is the id of what a record belongs to."""

    store: Store

    def add(self, record: Record, more: int = 0) -> Record:
        """Write a new one, for which the organisation keeps `more` bytes. Raises QuotaExceeded."""
        with self.store.writing() as session:
            if more:
                make_room_for_bytes(session, more)
            session.add(record)
        return record

    def find(self, kind: str, name: str, parent: str | None = None) -> Record:
        """The record of that kind and id. Raises NoSuchRecord."""
        with self.store.reading() as session:
            return _find(session, kind, name, parent)

    def all(self, kind: str, parent: str | None = None) -> Sequence[Record]:
        """All of a kind that belong to `parent` (or all), oldest first."""
        query = select(Record).where(Record.kind == kind).order_by(Record.seq)
        if parent is not None:
            query = query.where(Record.parent == parent)
        with self.store.reading() as session:
            return session.scalars(query).all()

    def page(
        self, kind: str, parent: str | None, after: str | None, limit: int, order: Order = "desc"
    ) -> tuple[Sequence[Record], bool]:
        """Some of a kind, and whether there are more."""
        query = select(Record).where(Record.kind == kind)
        if parent is not None:
            query = query.where(Record.parent == parent)
        with self.store.reading() as session:
            return page(session, query, after, limit, order)

    @contextmanager
    def changing(self, kind: str, name: str) -> Iterator[Record]:
        """A record to change; committed at the end of the block. Raises NoSuchRecord."""
        with self.store.writing() as session:
            yield _find(session, kind, name, locked=True)

    def delete(self, kind: str, name: str) -> None:
        """Forget a record and what belongs to it. Raises NoSuchRecord."""
        with self.store.writing() as session:
            session.delete(_find(session, kind, name))
            for part in session.scalars(select(Record).where(Record.parent == name)):
                session.delete(part)


def _find(
    session: Session, kind: str, name: str, parent: str | None = None, locked: bool = False
) -> Record:
    if "\0" in name or not name.isascii():
        raise NoSuchRecord(kind, "?")
    query = select(Record).where(Record.id == name, Record.kind == kind)
    if parent is not None:
        query = query.where(Record.parent == parent)
    record = session.scalar(query.with_for_update() if locked else query)
    if record is None:
        raise NoSuchRecord(kind, name)
    return record


def body_of(record: Record, kind: str) -> dict[str, Any]:
    """A record as clients read it: id, kind and time, then its body."""
    return {"id": record.id, "object": kind, "created_at": record.created_at, **record.body}
