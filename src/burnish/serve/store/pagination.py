"""Pages of rows: `limit` rows that follow the one with the id `after`."""

from collections.abc import Sequence
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
    """Return the rows of `query` after `after`, in the order of creation; and whether more follow.

    Raises RequestError for an `after` that is not in the list: with the first page again, a client
    would never reach the end.
    """
    table: Any = query.column_descriptions[0]["entity"]
    if after:
        # PostgreSQL would refuse to look up an id that cannot be stored (NUL).
        cursor = None
        if "\0" not in after and after.isascii():
            cursor = session.scalar(query.where(table.id == after).with_only_columns(table.seq))
        if cursor is None:
            raise RequestError(f"No such object in this list: {after}.", "after", "invalid_cursor")
        query = query.where(table.seq < cursor if order == "desc" else table.seq > cursor)
    ordered = query.order_by(table.seq.desc() if order == "desc" else table.seq).limit(limit + 1)
    rows = list(session.scalars(ordered))
    return rows[:limit], len(rows) > limit


def find_by_id(session: Session, table: Any, name: str) -> Any:
    """Return the row with that id, or None."""
    if "\0" in name or not name.isascii():
        return None
    return session.scalar(select(table).where(table.id == name))
