"""Lists in pages, as clients walk them: `after` the last id they have, `limit` at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from burnish.serve.errors import RequestError

Order = Literal["asc", "desc"]
RowT = TypeVar("RowT")


def fetch_page(
    session: Session,
    query: Select[RowT],
    after: str | None,
    limit: int,
    order: Order = "desc",
) -> tuple[Sequence[RowT], bool]:
    """The records of `query` that follow `after` in the order of creation; and whether more do.

    Raises Refused for an `after` that isn't in the list: page one again would never end.
    """
    table: Any = query.column_descriptions[0]["entity"]
    if after:
        # An unstorable id (NUL) is unknown too, and PostgreSQL would not even look it up.
        place = None
        if "\0" not in after and after.isascii():
            place = session.scalar(query.where(table.id == after).with_only_columns(table.seq))
        if place is None:
            raise RequestError(f"No such object in this list: {after}.", "after", "invalid_cursor")
        query = query.where(table.seq < place if order == "desc" else table.seq > place)
    ordered = query.order_by(table.seq.desc() if order == "desc" else table.seq).limit(limit + 1)
    found = list(session.scalars(ordered))
    return found[:limit], len(found) > limit


def page_body(
    records: Sequence[RowT], more: bool, shape: Callable[[RowT], dict[str, Any]]
) -> dict[str, Any]:
    """The body of a list."""
    data = [shape(record) for record in records]
    return {
        "object": "list",
        "data": data,
        "has_more": more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def find_by_id(session: Session, table: Any, name: str) -> Any:
    """The record of that id, or None."""
    if "\0" in name or not name.isascii():
        return None
    return session.scalar(select(table).where(table.id == name))
