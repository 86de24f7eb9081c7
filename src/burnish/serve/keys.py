"""The key that the server asks for: named by the environment, or made once and kept."""

import os
from dataclasses import dataclass
from secrets import token_urlsafe

from burnish.core.settings import api_key, workspace


@dataclass(frozen=True, slots=True)
class Key:
    """An API key; `made` is true the one time that it is new and has to be shown."""

    value: str
    made: bool


def find_key() -> Key:
    """`BURNISH_API_KEY`, or the workspace's own, made at the first start (mode 0600)."""
    if named := api_key():
        return Key(named, made=False)
    file = workspace() / "api_key"
    file.parent.mkdir(parents=True, exist_ok=True)
    value = f"bk-{token_urlsafe(32)}"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return Key(file.read_text(encoding="ascii").strip(), made=False)
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(value + "\n")
    return Key(value, made=True)
