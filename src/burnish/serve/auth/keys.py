"""Who may ask: keys with what each is allowed, of which only the hashes are kept.

A key is 256 random bits, so a plain SHA-256 of it can neither be turned back nor guessed. The file
is read again when it changes: a key that is removed stops working at once.
"""

import json
import re
import time
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe

from filelock import FileLock

from burnish.core.atomic import write_json
from burnish.core.errors import AlreadyThere, BadRecipe, NotFound
from burnish.core.settings import api_key, workspace
from burnish.serve.auth.tenant import DEFAULT_ORGANIZATION

#: What a key can be bound to: the first word of a path behind /v1.
ROUTES = (
    "models", "chat", "completions", "embeddings", "responses", "files", "uploads",
    "fine_tuning", "batches", "vector_stores", "deployments", "metrics",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, whose it is, and its limits; an empty limit is none.

    `models` are names or patterns (`ft:*`). `most_bytes` (stored) and `most_jobs` (unfinished) are
    of all that the organisation has, whichever key has made it.
    """

    name: str
    sha256: str
    models: Collection[str] = ()
    routes: Collection[str] = ()
    per_minute: int | None = None
    organization: str = DEFAULT_ORGANIZATION
    most_bytes: int | None = None
    most_jobs: int | None = None
    created_at: int = field(default_factory=lambda: int(time.time()))

    def allows_model(self, name: str) -> bool:
        """Whether it may use a model."""
        return not self.models or any(fnmatchcase(name, pattern) for pattern in self.models)

    def allows_route(self, word: str) -> bool:
        """Whether it may use the paths that begin with `word`."""
        return not self.routes or word in self.routes


_ORGANIZATION = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

#: Whose request is being answered; outside of any request, somebody who may do all.
CURRENT_KEY: ContextVar[ApiKey] = ContextVar("caller", default=ApiKey("burnish", ""))  # noqa: B039 frozen


class ApiKeys:
    """The keys of a workspace, and the one that the environment names (which may do all)."""

    def __init__(self, file: Path, named: str | None = None) -> None:
        self._file, self._named = file, ApiKey("environment", _hash(named)) if named else None
        self._read_at, self._kept = 0, dict[str, ApiKey]()

    def find(self, value: str) -> ApiKey | None:
        """The key of that value. Hashes are compared, so the time tells nothing of the key."""
        own = _hash(value)
        if self._named and self._named.sha256 == own:
            return self._named
        return next((key for key in self.all() if key.sha256 == own), None)

    def find_by_name(self, name: str) -> ApiKey | None:
        """The key of that name."""
        known = [*self.all(), *([self._named] if self._named else [])]
        return next((key for key in known if key.name == name), None)

    def all(self) -> Sequence[ApiKey]:
        """All that are kept."""
        changed = self._file.stat().st_mtime_ns if self._file.exists() else 0
        if changed != self._read_at:
            entries = json.loads(self._file.read_text(encoding="utf-8")) if changed else []
            self._kept = {entry["name"]: ApiKey(**entry) for entry in entries}
            self._read_at = changed
        return list(self._kept.values())

    def add(self, wanted: ApiKey) -> str:
        """Make a key with the limits of `wanted`; returns its value, which is kept nowhere.

        Raises AlreadyThere for a name that is taken, BadRecipe for an unknown route or a name of
        an organisation that cannot stand in the name of a model.
        """
        if not _ORGANIZATION.fullmatch(wanted.organization):
            raise BadRecipe(
                f"`{wanted.organization}` cannot be an organisation's name.",
                "Small letters, digits, - and _: at most 32, a letter or digit first.",
            )
        if unknown := set(wanted.routes) - set(ROUTES):
            raise BadRecipe(
                f"`{', '.join(sorted(unknown))}` is no route.", f"Routes: {', '.join(ROUTES)}"
            )
        with self._lock_file():
            taken = {"environment", *(key.name for key in self.all())}
            if wanted.name in taken:
                raise AlreadyThere(
                    f"There is a key `{wanted.name}` already.",
                    f"burnish key {wanted.name} --remove",
                )
            return self._store_key(wanted, f"bk-{token_urlsafe(32)}")

    def remove(self, name: str) -> None:
        """Let a key open nothing any more. Raises NotFound."""
        with self._lock_file():
            kept = [key for key in self.all() if key.name != name]
            if len(kept) == len(self.all()):
                raise NotFound(f"There is no key `{name}`.", "burnish key")
            self._write(kept)

    def make_first(self) -> str | None:
        """A key for a workspace that has none and is given none; None if there is one."""
        old = self._file.with_name("api_key")  # where earlier versions kept it readable
        with self._lock_file():
            if old.exists():
                value = self._store_key(
                    ApiKey("first", ""), old.read_text(encoding="ascii").strip()
                )
                old.unlink()
                return value
            if self._named or self.all():
                return None
            return self._store_key(ApiKey("first", ""), f"bk-{token_urlsafe(32)}")

    def _store_key(self, wanted: ApiKey, value: str) -> str:
        made = replace(wanted, sha256=_hash(value), created_at=int(time.time()))
        self._write([*self.all(), made])
        return value

    def _lock_file(self) -> FileLock:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._file.with_suffix(".lock"))

    def _write(self, keys: Sequence[ApiKey]) -> None:
        write_json(self._file, [asdict(key) for key in keys])
        self._file.chmod(0o600)


def open_keys() -> ApiKeys:
    """The keys of this workspace (`keys.json`), and `BURNISH_API_KEY`."""
    return ApiKeys(workspace() / "keys.json", api_key())


def _hash(value: str) -> str:
    return sha256(value.encode()).hexdigest()
