"""Word files as a reader sees them once all tracked changes are accepted.

python-docx's own texts leave out what stands within an insertion, a content control or a text box.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.core.errors import BadData
from burnish.rag.documents import DocumentBuilder

#: Bytes that a file may have when it is unpacked.
_MOST_BYTES = 200_000_000
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
#: What was deleted or moved away, what is said twice, and what describes instead of saying.
_UNREAD = frozenset(
    {_FALLBACK, *(_W + name for name in ("del", "moveFrom", "rPr", "pPr", "instrText", "delText"))}
)
#: Elements that stand for characters.
_SIGNS = {_W + "tab": "\t", _W + "br": "\n", _W + "cr": "\n", _W + "noBreakHyphen": "-"}
_HEADING = re.compile(r"Heading (\d)|Title")


def refuse_huge(file: Path) -> None:
    """Raise BadData for an archive that would fill the memory, BadZipFile for none at all."""
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _MOST_BYTES:
        raise BadData(
            f"{file} unpacks to {size / 1e6:.0f} MB; at most {_MOST_BYTES / 1e6:.0f} MB are read.",
            "Save it again without what is embedded in it, or in parts.",
        )


def fill(draft: DocumentBuilder, source: Any) -> None:
    """Put the paragraphs and tables of a document of python-docx into the draft."""
    styles = {style.style_id: style.name for style in source.styles}
    for item in _items(source.element.body):
        if item.tag == _W + "tbl":
            draft.add_block("\n".join(_rows(item)))
            continue
        named = item.find(f"{_W}pPr/{_W}pStyle")
        style = styles.get(named.get(f"{_W}val")) if named is not None else ""
        text, level = _text(item), _HEADING.fullmatch(style or "")
        if level and text.strip():
            draft.add_heading(int(level[1] or 0), text.strip())
        else:
            draft.add_block(text)


def _items(parent: Any) -> Iterator[Any]:
    """The paragraphs and tables within an element, in order, however they are wrapped."""
    for child in parent:
        if child.tag in (_W + "p", _W + "tbl"):
            yield child
        elif child.tag not in _UNREAD:
            yield from _items(child)


def _rows(table: Any) -> Iterator[str]:
    """The rows of a table, cells parted by bars; a row that was deleted is none."""
    for row in _own(table, "tr"):
        if row.find(f"{_W}trPr/{_W}del") is None:
            cells = (map(_said, _items(cell)) for cell in _own(row, "tc"))
            yield " | ".join(" ".join(some).strip() for some in cells)


def _own(element: Any, name: str) -> Iterator[Any]:
    """The rows of a table, or the cells of a row, however they are wrapped; not those of a table
    within it."""
    for child in element:
        if child.tag == _W + name:
            yield child
        elif child.tag not in _UNREAD:
            yield from _own(child, name)


def _said(item: Any) -> str:
    """A paragraph, or a table within a cell."""
    return "; ".join(_rows(item)) if item.tag == _W + "tbl" else _text(item)


def _text(element: Any) -> str:
    """What an element says, without what was deleted."""
    said: list[str] = []
    waiting = [element]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            said.append(part)
        elif part.tag == _W + "t":
            said.append(part.text or "")
        elif part.tag in _SIGNS:
            said.append(_SIGNS[part.tag])
        elif part.tag not in _UNREAD:
            inner = list(part)
            waiting += reversed(inner)
            # Paragraphs within one (a text box) are lines of their own.
            if part.tag == _W + "p" and part is not element:
                said.append("\n")
    return "".join(said)
