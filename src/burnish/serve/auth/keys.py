"""API keys and their limits. Only the hashes of the keys are stored.

A key is 256 random bits, so its plain SHA-256 can be neither inverted nor guessed. The file is read
again when it changes: a key that is removed stops working at once.
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

#: The routes that a key can be limited to: the first part of a path after /v1.
ROUTES = (
    "models", "chat", "completions", "embeddings", "responses", "files", "uploads",
    "fine_tuning", "batches", "vector_stores", "deployments", "metrics",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, its organization and its limits; an empty limit means none.

    `models` are names or patterns (`ft:*`). `most_bytes` (stored) and `most_jobs` (unfinished)
    limit the whole organization, not only what this key created.
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
        """Return whether the key may use a model."""
        return not self.models or any(fnmatchcase(name, pattern) for pattern in self.models)

    def allows_route(self, route: str) -> bool:
        """Return whether the key may use a route (see `ROUTES`)."""
        return not self.routes or route in self.routes


_ORGANIZATION = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

#: The key of the current request; outside of a request, a key without limits.
CURRENT_KEY: ContextVar[ApiKey] = ContextVar("caller", default=ApiKey("burnish", ""))  # noqa: B039 frozen


class ApiKeys:
    """The keys of a workspace, and the unlimited key that the environment sets."""

    def __init__(self, file: Path, named: str | None = None) -> None:
        self._file, self._named = file, ApiKey("environment", _hash(named)) if named else None
        self._read_at, self._kept = 0, dict[str, ApiKey]()

    def find(self, value: str) -> ApiKey | None:
        """Find a key by its value. Hashes are compared, so the time reveals nothing of the key."""
        digest = _hash(value)
        if self._named and self._named.sha256 == digest:
            return self._named
        return next((key for key in self.all() if key.sha256 == digest), None)

    def find_by_name(self, name: str) -> ApiKey | None:
        """Find a key by its name."""
        keys = [*self.all(), *([self._named] if self._named else [])]
        return next((key for key in keys if key.name == name), None)

    def all(self) -> Sequence[ApiKey]:
        """Return all stored keys."""
        changed = self._file.stat().st_mtime_ns if self._file.exists() else 0
        if changed != self._read_at:
            entries = json.loads(self._file.read_text(encoding="utf-8")) if changed else []
            self._kept = {entry["name"]: ApiKey(**entry) for entry in entries}
            self._read_at = changed
        return list(self._kept.values())

    def add(self, wanted: ApiKey) -> str:
        """Create a key with the limits of `wanted`. Returns its value, which is not stored.

        Raises AlreadyThere for a name in use; BadRecipe for an unknown route, or an organization
        that cannot be part of a model's name.
        """
        if not _ORGANIZATION.fullmatch(wanted.organization):
            raise BadRecipe(
                f"`{wanted.organization}` is not a valid name of an organization.",
                "Use at most 32 small letters, digits, - and _, beginning with a letter or digit.",
            )
        if unknown := set(wanted.routes) - set(ROUTES):
            raise BadRecipe(
                f"`{', '.join(sorted(unknown))}` is not a route.", f"Routes: {', '.join(ROUTES)}"
            )
        with self._lock_file():
            taken = {"environment", *(key.name for key in self.all())}
            if wanted.name in taken:
                raise AlreadyThere(
                    f"A key `{wanted.name}` already exists.",
                    f"burnish key {wanted.name} --remove",
                )
            return self._store_key(wanted, f"bk-{token_urlsafe(32)}")

    def remove(self, name: str) -> None:
        """Remove a key; it stops working at once. Raises NotFound."""
        with self._lock_file():
            kept = [key for key in self.all() if key.name != name]
            if len(kept) == len(self.all()):
                raise NotFound(f"There is no key `{name}`.", "burnish key")
            self._write(kept)

    def make_first(self) -> str | None:
        """Create the first key of a workspace, unless it has one or the environment sets one."""
        old = self._file.with_name("api_key")  # where earlier versions stored it in plain text
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
        key = replace(wanted, sha256=_hash(value), created_at=int(time.time()))
        self._write([*self.all(), key])
        return value

    def _lock_file(self) -> FileLock:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._file.with_suffix(".lock"))

    def _write(self, keys: Sequence[ApiKey]) -> None:
        write_json(self._file, [asdict(key) for key in keys])
        self._file.chmod(0o600)


def open_keys() -> ApiKeys:
    """Open the keys of this workspace (`keys.json`) and `BURNISH_API_KEY`."""
    return ApiKeys(workspace() / "keys.json", api_key())


def _hash(value: str) -> str:
    return sha256(value.encode()).hexdigest()
