"""The answer goes to stdout, as text for people or as JSON for machines."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer


def show(text: str, value: Any, as_json: bool) -> None:
    """Print `value` as JSON, or `text`."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str) if as_json else text)


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns with two spaces between them."""
    lines = [list(heads), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def format_size(count: float) -> str:
    """Bytes as people read them: `271 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def format_facts(values: Mapping[str, str]) -> str:
    """One fact a line, the names aligned."""
    width = max(len(name) for name in values)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in values.items())
