"""How each kind of file is read: the table READERS. Libraries load when such a file comes."""

import csv
import importlib
import io
import json
import logging
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from burnish.core.errors import BadData, Unavailable
from burnish.core.json_text import BadJson, parse_json
from burnish.core.records import some_of
from burnish.rag.documents import Block, Document, Draft, Reader
from burnish.rag.docx_text import fill, refuse_huge
from burnish.rag.html_page import Page

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+\Z")
_FRONT_MATTER = re.compile(r"\A---\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_SPACE = re.compile(r"\s*")


def read_text(file: Path) -> Document:
    """Plain text: paragraphs between empty lines."""
    text = _decoded(file)
    return Document(file.stem, text, tuple(Block(*place) for place in _paragraphs(text)))


def read_markdown(file: Path) -> Document:
    """Markdown (CommonMark): the blocks of the top level, under their headings."""
    text = _decoded(file)
    front = _FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    body = text[begin:]
    starts = [begin, *(begin + end for end in accumulate(len(m[0]) for m in _LINE.finditer(body)))]
    tokens = (
        _library("markdown_it")
        .MarkdownIt("commonmark")
        .enable("table")
        .disable("inline")
        .parse(body)
    )
    blocks = [Block(0, len(text[:begin].rstrip()))] if front else []
    outline: dict[int, str] = {}
    heading_at, last, title = None, begin, file.stem
    for place, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        # From the end of the block before: a reference definition leaves no token of its own.
        start = _skipped(text, last)
        last = starts[min(token.map[1], len(starts) - 1)]
        if token.type == "heading_open":
            level, name = int(token.tag[1]), tokens[place + 1].content.strip()
            title = name if level == 1 and not outline else title
            outline = {own: said for own, said in outline.items() if own < level} | {level: name}
            heading_at = start if heading_at is None else heading_at
            continue
        start = start if heading_at is None else heading_at
        heading_at = None
        blocks.append(Block(start, len(text[:last].rstrip()), _path(outline)))
    rest = _skipped(text, last) if heading_at is None else heading_at
    if text[rest:].strip():
        blocks.append(Block(rest, len(text.rstrip()), _path(outline)))
    return Document(title, text, tuple(block for block in blocks if block.start < block.end))


def read_csv(file: Path) -> Document:
    """A table: each row is a block of `column: value` lines."""
    rows = csv.DictReader(io.StringIO(_decoded(file), newline=""), restkey="more", strict=True)
    try:
        return _records(file, rows)
    except csv.Error as error:
        raise BadData(
            f"{file}, after line {rows.line_num}: {error}.", "Mend the quotes there."
        ) from error


def read_jsonl(file: Path) -> Document:
    """JSON lines: each object is a block of `key: value` lines."""
    records = []
    for number, line in enumerate(_decoded(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except BadJson as error:
            raise BadData(
                f"{file}, line {number} is not JSON: {error.reason}", "Mend it."
            ) from error
        if not isinstance(record, dict):
            raise BadData(f"{file}, line {number} is not an object.", "Write {...} on each line.")
        records.append(record)
    return _records(file, records)


def read_html(file: Path) -> Document:
    """HTML: what a reader sees, under its h1 to h6."""
    etree = _library("lxml.etree")
    parser = etree.HTMLParser(target=Page(file.stem), huge_tree=True, encoding="utf-8")
    parser.feed(_decoded(file).encode())
    draft: Draft = parser.close()
    return draft.finished()


def read_pdf(file: Path) -> Document:
    """PDF: the text of each page."""
    pypdf = _library("pypdf")
    # What it mends by itself isn't worth a line; what it can't, it raises.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    draft, blank = Draft(file.stem), []
    try:
        with file.open("rb") as opened:
            source = pypdf.PdfReader(opened)
            draft.title = str((source.metadata or {}).get("/Title") or "").strip() or file.stem
            for number, page in enumerate(source.pages, start=1):
                draft.page = number
                text = page.extract_text()
                for begin, end in _paragraphs(text):
                    draft.block(text[begin:end])
                if not text.strip():
                    blank.append(number)
    except importlib.import_module("pypdf.errors").PyPdfError as error:
        raise BadData(
            f"{file} is broken or locked: {error}", "Open it and save it again without a password."
        ) from error
    if blank:
        draft.notes = (f"{_numbered(blank)} no text: a scan needs text recognition (OCR) first",)
    return draft.finished()


def _numbered(pages: Sequence[int]) -> str:
    """`page 2 holds`, `pages 2, 5 hold`."""
    return f"page {pages[0]} holds" if len(pages) == 1 else f"pages {some_of(pages)} hold"


def read_docx(file: Path) -> Document:
    """Word: paragraphs and tables under their headings, all tracked changes accepted."""
    docx = _library("docx")
    try:
        refuse_huge(file)
        source = docx.Document(str(file))
    except (
        zipfile.BadZipFile,
        importlib.import_module("docx.opc.exceptions").PackageNotFoundError,
    ) as error:
        raise BadData(f"{file} is not a Word file.", "Open it and save it again.") from error
    draft = Draft((source.core_properties.title or "").strip() or file.stem)
    fill(draft, source)
    return draft.finished()


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


def _records(file: Path, records: Iterable[Mapping[str, Any]]) -> Document:
    draft = Draft(file.stem)
    for record in records:
        lines = (
            f"{key}: {_plain(value)}" for key, value in record.items() if value not in ("", None)
        )
        draft.block("\n".join(lines))
    return draft.finished()


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _path(outline: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(outline[level] for level in sorted(outline))


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Where the paragraphs of a text begin and end: what lies between empty lines."""
    begin, end, place = -1, 0, 0
    for line in _LINE.findall(text):
        said = line.strip()
        if said:
            first = place + line.index(said[0])
            begin = first if begin < 0 else begin
            end = first + len(line[line.index(said[0]) :].rstrip())
        elif begin >= 0:
            yield begin, end
            begin = -1
        place += len(line)
    if begin >= 0:
        yield begin, end


def _skipped(text: str, place: int) -> int:
    """The first place from `place` on that isn't white space."""
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _decoded(file: Path) -> str:
    """The characters as they stand in the file, line ends and all; a byte order mark is left out.

    Raises UnicodeDecodeError.
    """
    return file.read_bytes().decode("utf-8-sig")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(
            f"Reading such files needs the Python package `{name}`, which is not installed.",
            "pip install 'burnish[rag]'",
        ) from error
