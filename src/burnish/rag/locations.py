"""The locations of a workspace's indexes: folders in it, or the database of BURNISH_INDEXES."""

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
    """Lists, opens (or creates), and removes indexes at one location.

    `where` describes the location of an index for people, without passwords.
    """

    names: Callable[[], list[str]]
    open: Callable[[str], PassageStore]
    remove: Callable[[str], None]
    where: Callable[[str], str]


def index_locations() -> IndexLocations:
    """Return the configured location of indexes. Raises BadRecipe for an unsupported
    BURNISH_INDEXES."""
    url = indexes_url()
    if not url:
        return IndexLocations(
            index_names, _open_folder, _remove_folder, lambda n: str(index_folder(n))
        )
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise BadRecipe(
            f"BURNISH_INDEXES names a {parts.scheme or 'nameless'} database.",
            "Supported is PostgreSQL with pgvector: postgresql://user:password@host/database",
        )
    server = f"{parts.hostname or 'localhost'}{parts.path}"
    return IndexLocations(
        lambda: list_postgres(url),
        lambda name: PostgresStore(url, _check_name(name)),
        lambda name: drop_postgres(url, name),
        lambda name: f"{server}, schema burnish_{name}",
    )


def index_folder(name: str) -> Path:
    """Return the folder of the index `name` in this workspace. Raises BadRecipe for an invalid
    name."""
    return workspace() / "indexes" / _check_name(name)


def index_names() -> list[str]:
    """Return the names of the indexes in folders of this workspace, sorted."""
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
