"""Readers by file kind: the table READERS. Libraries are loaded when such a file comes."""

import csv
import importlib
import io
import json
import logging
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from burnish.core.errors import BadData, BurnishError, Unavailable
from burnish.core.json_text import BadJson, parse_json
from burnish.core.records import abbreviate
from burnish.rag.documents import Block, Document, DocumentBuilder, Reader
from burnish.rag.docx_text import fill, refuse_huge
from burnish.rag.html_page import HtmlPage

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+\Z")
_FRONT_MATTER = re.compile(r"\A---\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_SPACE = re.compile(r"\s*")
#: Lone surrogates, which no embedder or database accepts.
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(file: Path) -> Document:
    """Read plain text: paragraphs between empty lines."""
    text = _decode_file(file)
    return Document(file.stem, text, tuple(Block(*span) for span in _paragraphs(text)))


def read_markdown(file: Path) -> Document:
    """Read Markdown (CommonMark): the top-level blocks, under their headings."""
    text = _decode_file(file)
    front = _FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    body = text[begin:]
    starts = [begin, *(begin + end for end in accumulate(len(m[0]) for m in _LINE.finditer(body)))]
    tokens = (
        _import_library("markdown_it")
        .MarkdownIt("commonmark")
        .enable("table")
        .disable("inline")
        .parse(body)
    )
    blocks = [Block(0, len(text[:begin].rstrip()))] if front else []
    outline: dict[int, str] = {}
    heading_at, last, title = None, begin, file.stem
    for index, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        # Start at the end of the previous block: a reference definition has no token of its own.
        start = _skip_whitespace(text, last)
        last = starts[min(token.map[1], len(starts) - 1)]
        if token.type == "heading_open":
            level, name = int(token.tag[1]), tokens[index + 1].content.strip()
            title = name if level == 1 and not outline else title
            outline = {outer: heading for outer, heading in outline.items() if outer < level} | {
                level: name
            }
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
    """Read a table: each row is a block of `column: value` lines."""
    rows = csv.DictReader(io.StringIO(_decode_file(file), newline=""), restkey="more", strict=True)
    try:
        return _records_document(file, rows)
    except csv.Error as error:
        raise BadData(
            f"{file}, after line {rows.line_num}: {error}.", "Fix the quotes there."
        ) from error


def read_jsonl(file: Path) -> Document:
    """Read JSON lines: each object is a block of `key: value` lines."""
    records = []
    for number, line in enumerate(_decode_file(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except BadJson as error:
            raise BadData(
                f"{file}, line {number} is not JSON: {error.reason}", "Fix it."
            ) from error
        if not isinstance(record, dict):
            raise BadData(f"{file}, line {number} is not an object.", "Write {...} on each line.")
        records.append(record)
    return _records_document(file, records)


def read_html(file: Path) -> Document:
    """Read HTML: the visible text, under its h1 to h6."""
    etree = _import_library("lxml.etree")
    parser = etree.HTMLParser(target=HtmlPage(file.stem), huge_tree=True, encoding="utf-8")
    parser.feed(_decode_file(file).encode())
    builder: DocumentBuilder = parser.close()
    return builder.build()


def read_pdf(file: Path) -> Document:
    """Read PDF: the text of each page."""
    pypdf = _import_library("pypdf")
    # Its warnings about repaired files are noise; real errors are raised.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    builder, blank = DocumentBuilder(file.stem), []
    try:
        with file.open("rb") as opened:
            source = pypdf.PdfReader(opened)
            builder.title = str((source.metadata or {}).get("/Title") or "").strip() or file.stem
            for number, page in enumerate(source.pages, start=1):
                builder.page = number
                text = page.extract_text()
                for begin, end in _paragraphs(text):
                    builder.add_block(text[begin:end])
                if not text.strip():
                    blank.append(number)
    except importlib.import_module("pypdf.errors").PyPdfError as error:
        raise BadData(
            f"{file} is corrupt or locked: {error}", "Open it and save it again without a password."
        ) from error
    if blank:
        builder.notes = (f"{_numbered(blank)} no text: a scan needs text recognition (OCR) first",)
    return builder.build()


def _numbered(pages: Sequence[int]) -> str:
    """Format `page 2 holds`, `pages 2, 5 hold`."""
    return f"page {pages[0]} holds" if len(pages) == 1 else f"pages {abbreviate(pages)} hold"


def read_docx(file: Path) -> Document:
    """Read Word: paragraphs and tables under their headings, all tracked changes accepted."""
    docx = _import_library("docx")
    try:
        refuse_huge(file)
        source = docx.Document(str(file))
    except (
        zipfile.BadZipFile,
        importlib.import_module("docx.opc.exceptions").PackageNotFoundError,
    ) as error:
        raise BadData(f"{file} is not a Word file.", "Open it and save it again.") from error
    builder = DocumentBuilder((source.core_properties.title or "").strip() or file.stem)
    fill(builder, source)
    return builder.build()


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


def _records_document(file: Path, records: Iterable[Mapping[str, Any]]) -> Document:
    builder = DocumentBuilder(file.stem)
    for record in records:
        lines = (
            f"{key}: {_cell_text(value)}"
            for key, value in record.items()
            if value not in ("", None)
        )
        builder.add_block("\n".join(lines))
    return builder.build()


def _cell_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _heading_path(outline: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(outline[level] for level in sorted(outline))


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of the paragraphs of a text, which are separated by empty lines."""
    begin, end, position = -1, 0, 0
    for line in _LINE.findall(text):
        stripped = line.strip()
        if stripped:
            first = position + line.index(stripped[0])
            begin = first if begin < 0 else begin
            end = first + len(line[line.index(stripped[0]) :].rstrip())
        elif begin >= 0:
            yield begin, end
            begin = -1
        position += len(line)
    if begin >= 0:
        yield begin, end


def _skip_whitespace(text: str, position: int) -> int:
    """Return the first position from `position` on that isn't white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _decode_file(file: Path) -> str:
    """Return the file's characters unchanged, line ends included, without a byte order mark.

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
    """Return file ending → reader."""
    return READERS


def read_document(file: Path) -> Document:
    """Read one file. Raises BadData if it is corrupt, empty or of an unknown kind; Unavailable if
    the library for its kind is missing."""
    reader = readers().get(file.suffix.lower())
    if reader is None:
        raise BadData(
            f"{file}: files of kind `{file.suffix}` can't be read.",
            f"Supported kinds: {', '.join(readers())}.",
        )
    try:
        document = reader(file)
    except UnicodeDecodeError as error:
        raise BadData(f"{file} is not UTF-8 text: {error}", "Save it as UTF-8.") from error
    except BurnishError:
        raise
    # Any exception of a library over a corrupt file is that file's error alone.
    except Exception as error:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise BadData(f"{file} is corrupt: {what}", "Open it and save it again.") from error
    if not document.text.strip():
        raise BadData(
            f"{file} contains no text.",
            "A scan needs text recognition (OCR) first; else remove it.",
        )
    return replace(
        document,
        title=_SURROGATE.sub("\ufffd", document.title),
        text=_SURROGATE.sub("\ufffd", document.text),
    )
