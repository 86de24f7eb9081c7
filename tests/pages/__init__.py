"""The parts of the docs that are written from the code."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NOTE = "This page is generated from the code by `make docs`."


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, a line a row."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def text_of(*lines: str) -> str:
    """A page from its lines."""
    return "\n".join(lines).rstrip() + "\n"


def filled(path: str, blocks: Mapping[str, Sequence[str]]) -> str:
    """A hand-written page, with what stands between `<!-- name -->` marks written anew."""
    page = (ROOT / path).read_text(encoding="utf-8")
    for name, lines in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, mark, rest = page.partition(begin)
        assert mark and end in rest, f"{path} has no block {name}"
        page = head + "\n".join([begin, "", *lines, "", end]) + rest.partition(end)[2]
    return page
