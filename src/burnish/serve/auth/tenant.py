"""Multi-tenancy: every row belongs to an organization, and a request sees only its own rows.

The store adds the filter below every query (`store.schema`), so that no route can forget it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: The organization of keys that name none, and of rows older than organizations.
DEFAULT_ORGANIZATION = "burnish"

#: The organization of the current request or task; None is the server itself, which sees all.
ORGANIZATION: ContextVar[str | None] = ContextVar("owner", default=None)


def current_organization() -> str:
    """Return the organization of a new row."""
    return ORGANIZATION.get() or DEFAULT_ORGANIZATION


@contextmanager
def as_organization(organization: str | None) -> Iterator[None]:
    """Run a block that sees and creates only rows of this organization."""
    before = ORGANIZATION.set(organization)
    try:
        yield
    finally:
        ORGANIZATION.reset(before)
