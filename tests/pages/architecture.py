"""The floors of the package, from import-linter's contracts and the packages' own docstrings."""

import ast
import re
import tomllib
from typing import Any

from tests.pages import ROOT, filled, table

PAGE = "docs/architecture.md"


def architecture_page() -> str:
    """The hand-written page with the tables of floors in it."""
    contracts = [c for c in _contracts() if c["type"] == "layers"]
    return filled(PAGE, {"floors": _floors(contracts[0]), "inside": _inside(contracts[1:])})


def _contracts() -> list[dict[str, Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return contracts


def _floors(contract: dict[str, Any]) -> list[str]:
    layers = contract["layers"]
    rows = [
        (len(layers) - 1 - place, f"`{_short(room)}`", _about(room))
        for place, layer in enumerate(layers)
        for room in _rooms(layer)
    ]
    return table(["floor", "room", "what lives there"], rows)


def _inside(contracts: list[dict[str, Any]]) -> list[str]:
    """The order inside a room: one line a contract, from the top down."""
    lines = []
    for contract in contracts:
        names = [" · ".join(_short(room) for room in _rooms(layer)) for layer in contract["layers"]]
        lines.append(f"- **{contract['name']}**: {' → '.join(f'`{name}`' for name in names)}")
    return lines or ["No room has a contract of its own."]


def _rooms(layer: str) -> list[str]:
    return [room.strip(" ()") for part in layer.split("|") for room in part.split(":")]


def _short(room: str) -> str:
    return room.removeprefix("burnish.")


def _about(room: str) -> str:
    """The first sentence of the docstring of a package or module."""
    path = ROOT / "src" / room.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    sentence = re.sub(r"^Floor \d+: ", "", " ".join(text.split("\n\n")[0].split()))
    return sentence[:1].upper() + sentence[1:]


def decisions_page() -> str:
    """The list of decisions, from the heads of their pages."""
    pages = sorted((ROOT / "docs/decisions").glob("0*.md"))
    heads = [page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in pages]
    lines = [f"- [{head}]({page.name})" for head, page in zip(heads, pages, strict=True)]
    return filled("docs/decisions/README.md", {"decisions": lines})
