"""A file as text with structure: blocks under headings, each with its position in the text.

Offsets count characters of `Document.text`. For Markdown and plain text that is the file itself;
for other kinds it is the extracted text, which `read_document` reproduces.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, list, table or record: `text[start:end]`, under `headings`, outermost first.

    A heading's own line belongs to the block that follows it. `page` counts from 1, in PDFs only.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A file's text. All non-white-space of `text` lies in one of the blocks. `notes` say which
    parts couldn't be read."""

    title: str
    text: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class DocumentBuilder:
    """Builds a document piece by piece, for files whose text has to be assembled."""

    title: str
    pieces: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    page: int | None = None
    notes: tuple[str, ...] = ()
    _length: int = 0
    _outline: dict[int, str] = field(default_factory=dict)
    _heading_at: int | None = None

    def add_heading(self, level: int, text: str) -> None:
        """Begin a section; `level` 1 is the outermost. An empty heading is ignored."""
        if not (text := text.strip()):
            return
        if self._heading_at is None:
            self._heading_at = self._length
        self._outline = {outer: name for outer, name in self._outline.items() if outer < level}
        self._outline[level] = text
        self._add(f"{text}\n\n")

    def add_block(self, text: str) -> None:
        """Add a paragraph; an empty one is ignored."""
        if not (text := text.strip()):
            return
        start = self._length if self._heading_at is None else self._heading_at
        self._add(text)
        headings = tuple(self._outline[level] for level in sorted(self._outline))
        self.blocks.append(Block(start, self._length, headings, self.page))
        self._heading_at = None
        self._add("\n\n")

    def build(self) -> Document:
        """Return the document; trailing headings without content become a block."""
        text = "".join(self.pieces)
        if self._heading_at is not None:
            headings = tuple(self._outline[level] for level in sorted(self._outline))
            end = len(text.rstrip())
            self.blocks.append(Block(self._heading_at, end, headings, self.page))
        return Document(self.title, text, tuple(self.blocks), self.notes)

    def _add(self, text: str) -> None:
        self.pieces.append(text)
        self._length += len(text)


Reader = Callable[[Path], Document]
