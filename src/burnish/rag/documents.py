"""A file → its text and its structure: blocks under headings, each with its place in the text.

Offsets count characters of `Document.text`. For Markdown and plain text that is the file itself;
of other kinds it is the text that is read out of them, which `read_document` gives again.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from burnish.core.errors import BadData, BurnishError


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
    """What a file says. All that isn't white space in `text` lies in one of the blocks. `notes` say
    what of it couldn't be read."""

    title: str
    text: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Draft:
    """A document that is being read piece by piece, for files whose text has to be put together."""

    title: str
    pieces: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    page: int | None = None
    notes: tuple[str, ...] = ()
    _length: int = 0
    _outline: dict[int, str] = field(default_factory=dict)
    _heading_at: int | None = None

    def heading(self, level: int, text: str) -> None:
        """Begin a section; `level` 1 is the outermost. An empty one is nothing."""
        if not (text := text.strip()):
            return
        if self._heading_at is None:
            self._heading_at = self._length
        self._outline = {own: name for own, name in self._outline.items() if own < level}
        self._outline[level] = text
        self._add(f"{text}\n\n")

    def block(self, text: str) -> None:
        """Add a paragraph; an empty one is nothing."""
        if not (text := text.strip()):
            return
        start = self._length if self._heading_at is None else self._heading_at
        self._add(text)
        headings = tuple(self._outline[level] for level in sorted(self._outline))
        self.blocks.append(Block(start, self._length, headings, self.page))
        self._heading_at = None
        self._add("\n\n")

    def finished(self) -> Document:
        """The document; headings at the end with nothing below them are a block of their own."""
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

#: Halves of characters, which no embedder and no database takes.
_SURROGATE = re.compile("[\ud800-\udfff]")


def readers() -> Mapping[str, Reader]:
    """File ending → how such a file is read."""
    from burnish.rag.formats import READERS

    return READERS


def read_document(file: Path) -> Document:
    """Read one file. Raises BadData if it is broken, empty or of an unknown kind; Unavailable if
    the library for its kind is missing."""
    reader = readers().get(file.suffix.lower())
    if reader is None:
        raise BadData(
            f"{file}: files of kind `{file.suffix}` can't be read.",
            f"Known kinds: {', '.join(readers())}.",
        )
    try:
        document = reader(file)
    except UnicodeDecodeError as error:
        raise BadData(f"{file} is not UTF-8 text: {error}", "Save it as UTF-8.") from error
    except BurnishError:
        raise
    # Whatever a library ends in over a broken file is that file's fault, and of no other one.
    except Exception as error:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise BadData(f"{file} is broken: {what}", "Open it and save it again.") from error
    if not document.text.strip():
        raise BadData(
            f"{file} holds no text.", "A scan needs text recognition (OCR) first; else remove it."
        )
    return replace(
        document,
        title=_SURROGATE.sub("\ufffd", document.title),
        text=_SURROGATE.sub("\ufffd", document.text),
    )
