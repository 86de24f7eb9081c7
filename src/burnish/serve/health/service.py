"""Checks of what the server needs to work."""

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from burnish.serve.inference.service import InferenceService
from burnish.serve.store.workspace import Workspace


def unready_parts(inference: InferenceService) -> list[str]:
    """Return the parts of the server that cannot work now; none if it is ready."""
    is_ready = {
        "models": inference.scheduler.open,
        "store": inference.workspace is None or _store_responds(inference.workspace),
    }
    return [part for part, ready in is_ready.items() if not ready]


def _store_responds(workspace: Workspace) -> bool:
    try:
        with workspace.store.reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True
