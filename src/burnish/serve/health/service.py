"""Checks of what the server needs to work."""

from collections.abc import Iterable
from typing import Protocol

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from burnish.serve.inference.service import InferenceService
from burnish.serve.store.workspace import Workspace


class FailingThreads(Protocol):
    """Threads that work in the background."""

    def failing(self) -> list[str]:
        """Return the names of those that keep failing."""


def unready_parts(inference: InferenceService) -> list[str]:
    """Return the parts of the server that cannot work now; none if it is ready."""
    is_ready = {
        "models": inference.scheduler.open,
        "store": inference.workspace is None or _store_responds(inference.workspace),
    }
    return [part for part, ready in is_ready.items() if not ready]


def failing_threads(background: Iterable[FailingThreads]) -> list[str]:
    """Return the names of the threads that keep failing; those that have ended are restarted."""
    return [name for threads in background for name in threads.failing()]


def _store_responds(workspace: Workspace) -> bool:
    try:
        with workspace.store.reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True
