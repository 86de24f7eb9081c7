"""Whose things are seen: every row belongs to an organisation, and a request sees only its own.

The store reads it below every query (`serve.store`), so that no route can forget to ask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: The organisation of whoever names none, and of all that was made before there were several.
DEFAULT_ORGANIZATION = "burnish"

#: For whom the work at hand is done; None is the server itself, which sees all.
ORGANIZATION: ContextVar[str | None] = ContextVar("owner", default=None)


def current_organization() -> str:
    """To whom a new row belongs."""
    return ORGANIZATION.get() or DEFAULT_ORGANIZATION


@contextmanager
def as_organization(organization: str | None) -> Iterator[None]:
    """Work that sees and makes only what is this organisation's."""
    before = ORGANIZATION.set(organization)
    try:
        yield
    finally:
        ORGANIZATION.reset(before)
