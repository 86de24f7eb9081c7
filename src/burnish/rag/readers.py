"""How each kind of file is read: the table READERS. Libraries load when such a file comes."""

import csv
import importlib
import io
import json
import logging
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from itertools import accumulate
from pathlib import Path
from typing import Any

from burnish.core.errors import BadData, BurnishError, Unavailable
from burnish.rag.documents import Block, Document, DocumentBuilder, Reader

#: What libraries raise on broken files, beside their own errors (which derive from these or are
#: turned into BadData by the reader).
_BROKEN = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+\Z")
_FRONT_MATTER = re.compile(r"\A---\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_PARAGRAPH = re.compile(r"\S.*?(?=\s*?(?:\r?\n[ \t]*){2,}|\s*\Z)", re.DOTALL)
_HEADING_TAGS = {f"h{level}": level for level in range(1, 7)}
_INLINE_TAGS = frozenset(
    (
        "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i",
        "img", "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strong", "sub",
        "sup", "time", "u", "var", "wbr",
    )
)  # fmt: skip
_UNREAD_TAGS = frozenset({"script", "style", "template"})


def read_text(file: Path) -> Document:
    """Plain text: paragraphs between empty lines."""
    text = _decode_file(file)
    blocks = (Block(found.start(), found.end()) for found in _PARAGRAPH.finditer(text))
    return Document(file.stem, text, tuple(blocks))


def read_markdown(file: Path) -> Document:
    """Markdown (CommonMark): the blocks of the top level, under their headings."""
    text = _decode_file(file)
    front = _FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    body = text[begin:]
    starts = [begin, *(begin + end for end in accumulate(len(m[0]) for m in _LINE.finditer(body)))]
    tokens = _import_library("markdown_it").MarkdownIt("commonmark").enable("table").parse(body)
    blocks = [Block(0, len(text[:begin].rstrip()))] if front else []
    outline: dict[int, str] = {}
    heading_at, last, title = None, begin, file.stem
    for place, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        # From the end of the block before: a reference definition leaves no token of its own.
        start = _skip_whitespace(text, last)
        last = starts[min(token.map[1], len(starts) - 1)]
        if token.type == "heading_open":
            level, name = int(token.tag[1]), tokens[place + 1].content.strip()
            title = name if level == 1 and not outline else title
            outline = {own: said for own, said in outline.items() if own < level} | {level: name}
            heading_at = start if heading_at is None else heading_at
            continue
        start = start if heading_at is None else heading_at
        heading_at = None
        blocks.append(Block(start, len(text[:last].rstrip()), _heading_path(outline)))
    rest = _skip_whitespace(text, last) if heading_at is None else heading_at
    if text[rest:].strip():
        blocks.append(Block(rest, len(text.rstrip()), _heading_path(outline)))
    return Document(title, text, tuple(block for block in blocks if block.start < block.end))


def read_csv(file: Path) -> Document:
    """A table: each row is a block of `column: value` lines."""
    rows = csv.DictReader(io.StringIO(_decode_file(file), newline=""), restkey="more", strict=True)
    try:
        return _records_document(file, rows)
    except csv.Error as error:
        raise BadData(
            f"{file}, after line {rows.line_num}: {error}.", "Mend the quotes there."
        ) from error


def read_jsonl(file: Path) -> Document:
    """JSON lines: each object is a block of `key: value` lines."""
    records = []
    for number, line in enumerate(_decode_file(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadData(f"{file}, line {number} is not JSON: {error}", "Mend it.") from error
        if not isinstance(record, dict):
            raise BadData(f"{file}, line {number} is not an object.", "Write {...} on each line.")
        records.append(record)
    return _records_document(file, records)


def read_html(file: Path) -> Document:
    """HTML: what a reader sees, under its h1 to h6."""
    page = _HtmlPage(file.stem)
    page.feed(_decode_file(file))
    page.close()
    page.end_block()
    return page.draft.build()


def read_pdf(file: Path) -> Document:
    """PDF: the text of each page."""
    pypdf = _import_library("pypdf")
    # What it mends by itself isn't worth a line; what it can't, it raises.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    draft = DocumentBuilder(file.stem)
    try:
        with file.open("rb") as opened:
            source = pypdf.PdfReader(opened)
            draft.title = str((source.metadata or {}).get("/Title") or "").strip() or file.stem
            for number, page in enumerate(source.pages, start=1):
                draft.page = number
                for paragraph in _PARAGRAPH.finditer(page.extract_text()):
                    draft.add_block(paragraph[0])
    except importlib.import_module("pypdf.errors").PyPdfError as error:
        raise BadData(
            f"{file} is broken or locked: {error}", "Open it and save it again without a password."
        ) from error
    return draft.build()


def read_docx(file: Path) -> Document:
    """Word: paragraphs and tables under their headings."""
    docx = _import_library("docx")
    try:
        source = docx.Document(str(file))
    except importlib.import_module("docx.opc.exceptions").PackageNotFoundError as error:
        raise BadData(f"{file} is not a Word file.", "Open it and save it again.") from error
    draft = DocumentBuilder((source.core_properties.title or "").strip() or file.stem)
    for item in source.iter_inner_content():
        if hasattr(item, "rows"):
            lines = (" | ".join(cell.text.strip() for cell in row.cells) for row in item.rows)
            draft.add_block("\n".join(lines))
            continue
        style = item.style.name if item.style is not None else ""
        level = re.fullmatch(r"(?:Heading (\d)|Title)", style or "")
        if level and item.text.strip():
            draft.add_heading(int(level[1] or 0), item.text.strip())
        else:
            draft.add_block(item.text)
    return draft.build()


#: File ending → reader.
READERS: dict[str, Reader] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".txt": read_text,
    ".html": read_html,
    ".htm": read_html,
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".pdf": read_pdf,
    ".docx": read_docx,
}


class _HtmlPage(HTMLParser):
    def __init__(self, title: str) -> None:
        super().__init__(convert_charrefs=True)
        self.draft = DocumentBuilder(title)
        self.pieces: list[str] = []
        self.inside: list[str] = []
        self.level: int | None = None

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """A block begins where the one before ends."""
        if tag in _UNREAD_TAGS or tag in ("title", "pre"):
            self.inside.append(tag)
        if tag == "br":
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" | " if self.pieces else "")
        elif tag not in _INLINE_TAGS:
            self.end_block()
            self.level = _HEADING_TAGS.get(tag)

    def handle_endtag(self, tag: str) -> None:
        """A title is the document's; other blocks end."""
        if tag == "title":
            self.draft.title = self._take_text() or self.draft.title
            self.pieces = []
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()
        if tag not in _INLINE_TAGS and tag not in ("td", "th", "br"):
            self.end_block()

    def handle_data(self, data: str) -> None:
        """White space is one space, save in `pre`."""
        if not _UNREAD_TAGS.intersection(self.inside):
            self.pieces.append(data if "pre" in self.inside else re.sub(r"\s+", " ", data))

    def end_block(self) -> None:
        """Put what was gathered into the document."""
        said, level = self._take_text(), self.level
        self.pieces, self.level = [], None
        if said and level:
            self.draft.add_heading(level, re.sub(r"\s+", " ", said))
        else:
            self.draft.add_block(said)

    def _take_text(self) -> str:
        return "".join(self.pieces).strip()


def _records_document(file: Path, records: Iterable[Mapping[str, Any]]) -> Document:
    draft = DocumentBuilder(file.stem)
    for record in records:
        lines = (
            f"{key}: {_cell_text(value)}"
            for key, value in record.items()
            if value not in ("", None)
        )
        draft.add_block("\n".join(lines))
    return draft.build()


def _cell_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _heading_path(outline: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(outline[level] for level in sorted(outline))


def _skip_whitespace(text: str, place: int) -> int:
    """The first place from `place` on that isn't white space."""
    found = re.compile(r"\s*").match(text, place)
    return found.end() if found else place


def _decode_file(file: Path) -> str:
    """The characters as they stand in the file, line ends and all; a byte order mark is left out.

    Raises UnicodeDecodeError.
    """
    return file.read_bytes().decode("utf-8-sig")


def _import_library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(
            f"Reading such files needs the Python package `{name}`, which is not installed.",
            "pip install 'burnish[rag]'",
        ) from error


def readers() -> Mapping[str, Reader]:
    """File ending → how such a file is read."""
    from burnish.rag.readers import READERS

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
    except _BROKEN as error:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise BadData(f"{file} is broken: {what}", "Open it and save it again.") from error
    if not document.text.strip():
        raise BadData(
            f"{file} holds no text.", "A scan needs text recognition (OCR) first; else remove it."
        )
    return document
