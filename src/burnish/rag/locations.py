"""Where the indexes of a workspace are: folders in it, or the database of BURNISH_INDEXES."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from burnish.core.errors import BadRecipe
from burnish.core.settings import indexes_url, workspace
from burnish.rag.postgres import PostgresStore, drop_postgres, list_postgres
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import PassageStore

#: The file inside an index's folder.
FILE = "index.db"


@dataclass(frozen=True, slots=True)
class IndexLocations:
    """A place for indexes: those that are there, and how one is opened (or made) and removed.

    `where` says for a person where an index is; it names no password.
    """

    names: Callable[[], list[str]]
    open: Callable[[str], PassageStore]
    remove: Callable[[str], None]
    where: Callable[[str], str]


def index_locations() -> IndexLocations:
    """Where indexes are kept now. Raises BadRecipe for a BURNISH_INDEXES of an unknown kind."""
    url = indexes_url()
    if not url:
        return IndexLocations(
            index_names, _open_folder, _remove_folder, lambda n: str(index_folder(n))
        )
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise BadRecipe(
            f"BURNISH_INDEXES names a {parts.scheme or 'nameless'} database.",
            "Indexes can be on PostgreSQL with pgvector: postgresql://user:password@host/database",
        )
    server = f"{parts.hostname or 'localhost'}{parts.path}"
    return IndexLocations(
        lambda: list_postgres(url),
        lambda name: PostgresStore(url, _check_name(name)),
        lambda name: drop_postgres(url, name),
        lambda name: f"{server}, schema burnish_{name}",
    )


def index_folder(name: str) -> Path:
    """Where this workspace keeps the index `name`. Raises BadRecipe if it can't be a folder's."""
    return workspace() / "indexes" / _check_name(name)


def index_names() -> list[str]:
    """The indexes in folders of this workspace, by name."""
    return sorted(file.parent.name for file in (workspace() / "indexes").glob(f"*/{FILE}"))


def _open_folder(name: str) -> PassageStore:
    folder = index_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    return SqliteStore(folder / FILE)


def _remove_folder(name: str) -> None:
    shutil.rmtree(index_folder(name))


def _check_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise BadRecipe(
            f"`{name}` can't be the name of an index.", "Letters, digits, `_`, `-` and `.` can."
        )
    return name
