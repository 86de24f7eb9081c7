"""Text of Word files with all tracked changes accepted.

python-docx's own texts omit what is inside an insertion, a content control or a text box.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.core.errors import BadData
from burnish.rag.documents import DocumentBuilder

#: Maximum unpacked size in bytes.
_MOST_BYTES = 200_000_000
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
#: Elements that were deleted or moved away, duplicates, and properties without text.
_UNREAD = frozenset(
    {_FALLBACK, *(_W + name for name in ("del", "moveFrom", "rPr", "pPr", "instrText", "delText"))}
)
#: Elements that stand for characters.
_SIGNS = {_W + "tab": "\t", _W + "br": "\n", _W + "cr": "\n", _W + "noBreakHyphen": "-"}
_HEADING = re.compile(r"Heading (\d)|Title")


def refuse_huge(file: Path) -> None:
    """Raise BadData for an archive that would exhaust memory, BadZipFile for an invalid one."""
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _MOST_BYTES:
        raise BadData(
            f"{file} unpacks to {size / 1e6:.0f} MB; the limit is {_MOST_BYTES / 1e6:.0f} MB.",
            "Save it again without embedded objects, or in parts.",
        )


def fill(builder: DocumentBuilder, source: Any) -> None:
    """Add the paragraphs and tables of a python-docx document to the builder."""
    styles = {style.style_id: style.name for style in source.styles}
    for item in _items(source.element.body):
        if item.tag == _W + "tbl":
            builder.add_block("\n".join(_rows(item)))
            continue
        named = item.find(f"{_W}pPr/{_W}pStyle")
        style = styles.get(named.get(f"{_W}val")) if named is not None else ""
        text, level = _text(item), _HEADING.fullmatch(style or "")
        if level and text.strip():
            builder.add_heading(int(level[1] or 0), text.strip())
        else:
            builder.add_block(text)


def _items(parent: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables within an element, in order, however they are wrapped."""
    for child in parent:
        if child.tag in (_W + "p", _W + "tbl"):
            yield child
        elif child.tag not in _UNREAD:
            yield from _items(child)


def _rows(table: Any) -> Iterator[str]:
    """Yield the rows of a table, cells separated by bars, without deleted rows."""
    for row in _own(table, "tr"):
        if row.find(f"{_W}trPr/{_W}del") is None:
            cells = (map(_said, _items(cell)) for cell in _own(row, "tc"))
            yield " | ".join(" ".join(parts).strip() for parts in cells)


def _own(element: Any, name: str) -> Iterator[Any]:
    """Yield the rows of a table, or the cells of a row, however they are wrapped; not those of a
    nested table."""
    for child in element:
        if child.tag == _W + name:
            yield child
        elif child.tag not in _UNREAD:
            yield from _own(child, name)


def _said(item: Any) -> str:
    """Return the text of a paragraph, or of a table within a cell."""
    return "; ".join(_rows(item)) if item.tag == _W + "tbl" else _text(item)


def _text(element: Any) -> str:
    """Return the text of an element, without what was deleted."""
    pieces: list[str] = []
    pending = [element]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            pieces.append(part)
        elif part.tag == _W + "t":
            pieces.append(part.text or "")
        elif part.tag in _SIGNS:
            pieces.append(_SIGNS[part.tag])
        elif part.tag not in _UNREAD:
            inner = list(part)
            pending += reversed(inner)
            # Nested paragraphs (a text box) are lines of their own.
            if part.tag == _W + "p" and part is not element:
                pieces.append("\n")
    return "".join(pieces)
