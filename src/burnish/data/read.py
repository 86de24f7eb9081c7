"""Files → rows and findings. A broken row is a finding with its number, never a crash."""

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars

from burnish.core.atomic import hash_file, refuse_missing
from burnish.core.errors import BadData
from burnish.core.recipe.data import Data, Task
from burnish.core.records import Finding, Row
from burnish.data.findings import CODES
from burnish.data.formats import FORMATS, detect_format
from burnish.data.images import insert_before_question, unread_image_columns, with_images
from burnish.data.spans import BadRow


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What files hold: usable rows, what is wrong with the others, and the files' hashes."""

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    hashes: Mapping[str, str]


Numbered = tuple[int, Any]


def read_files(files: Sequence[Path], data: Data, task: Task) -> ReadResult:
    """All rows of all files, in order.

    Raises NotFound for a file that isn't there, BadData for one whose rows have no known shape.
    """
    rows: list[Row] = []
    findings: list[Finding] = []
    for file in files:
        refuse_missing(file)
        some, found = _read_file(file, data)
        rows += some
        findings += found
    return ReadResult(tuple(rows), tuple(findings), {str(file): hash_file(file) for file in files})


def read_records(file: Path) -> list[Numbered]:
    """The records of one file with their numbers, in whatever shape. Raises NotFound, BadData."""
    refuse_missing(file)
    records, faults = _records(file)
    for finding in faults.findings():
        if finding.severity == "error":
            raise BadData(finding.summary, finding.fix)
    return records


def _records(file: Path) -> tuple[list[Numbered], "_Faults"]:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise BadData(
            f"{file}: files of kind `{file.suffix}` can't be read.",
            f"Known kinds: {', '.join(READERS)}.",
        )
    faults = _Faults(str(file))
    return list(reader(file, faults)), faults


def _read_file(file: Path, data: Data) -> tuple[list[Row], list[Finding]]:
    records, faults = _records(file)
    if not records:
        return [], faults.findings()
    keys = {str(key) for _, record in records for key in record}
    shape = FORMATS[data.format if data.format != "auto" else _detect_format(file, keys, data)]
    if data.format == "auto" and shape is FORMATS["text"]:
        _look_beside_text(keys, data, faults)
    rows = []
    for number, record in records:
        try:
            told, pictures = with_images(record, data)
            row = shape.convert(told, data.columns)
            row = insert_before_question(row, pictures) if pictures else row
        except BadRow as fault:
            faults.add(fault.finding, number, fault.what, fault.fix)
            continue
        for column in unread_image_columns(record, data):
            faults.add(
                "unread_pictures", number, f"the column `{column}` holds pictures that aren't read",
                f"If they belong to what is asked: data.columns.image={column}",
            )  # fmt: skip
        group, kind = _column_text(record, data.group), _column_text(record, data.question_type)
        rows.append(replace(row, file=str(file), line=number, group=group, type=kind))
    return rows, faults.findings()


def _look_beside_text(keys: set[str], data: Data, faults: "_Faults") -> None:
    """A table of texts and labels by a name of the house's own looks like plain text."""
    column = data.columns.text or "text"
    named = {column, *data.columns.model_dump().values(), data.group, data.question_type}
    others = sorted(keys - named)
    if others:
        faults.add(
            "unread_columns", 1,
            f"`{column}` is taken for plain text; beside it, unread: {', '.join(others)}",
            f"If {others[0]} is the answer: data.columns.prompt={column} and "
            f"data.columns.label={others[0]} (a class) or data.columns.completion={others[0]}; "
            "if plain text is meant: data.format=text.",
        )  # fmt: skip


def _column_text(record: Mapping[str, Any], column: str | None) -> str | None:
    """What a column that the recipe names says, as text; none if it isn't there or empty."""
    value = record.get(column) if column else None
    return None if value is None or value == "" else str(value)


def _detect_format(file: Path, keys: set[str], data: Data) -> str:
    try:
        return detect_format(keys, data.columns)
    except BadData as error:
        raise BadData(f"{file}: {error.what}", error.fix) from error


class _Faults:
    """Findings of one file, the rows of one cause together."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.rows: dict[tuple[str, str, str], list[int]] = defaultdict(list)

    def add(self, code: str, number: int, message: str, fix: str) -> None:
        self.rows[code, message, fix].append(number)

    def findings(self) -> list[Finding]:
        return [
            Finding(
                code, CODES[code][0], self.file, tuple(rows),
                message[0].upper() + message[1:] + ("" if message.endswith(".") else "."), fix,
            )
            for (code, message, fix), rows in self.rows.items()
        ]  # fmt: skip


def _decode_text(file: Path, faults: _Faults) -> str:
    """The file as text. A wrong encoding is a finding that names what it seems to be."""
    content = file.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        faults.add("encoding", 1, "the file is UTF-16", "Save it as UTF-8.")
        return ""
    if content.startswith(b"\xef\xbb\xbf"):
        faults.add("bom", 1, "the file begins with a byte order mark", "It is skipped; no harm.")
        content = content[3:]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        faults.add(
            "encoding", line, "the file is not UTF-8 (it may be Windows-1252)",
            "Save it as UTF-8; for example: iconv -f WINDOWS-1252 -t UTF-8 FILE.",
        )  # fmt: skip
        return ""


def _json_lines(file: Path, faults: _Faults) -> Iterator[Numbered]:
    for number, line in enumerate(_decode_text(file, faults).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            faults.add(
                "broken_json", number, _error_position(error), "Mend the line: one object a line."
            )
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            faults.add("broken_json", number, "the line is not a JSON object", "Write {...}.")


def _error_position(error: Exception) -> str:
    said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
    return f"the line is not JSON: {said}"


def _json_array(file: Path, faults: _Faults) -> Iterator[Numbered]:
    try:
        records = json.loads(_decode_text(file, faults) or "[]")
    except (json.JSONDecodeError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        faults.add("broken_json", line, _error_position(error), "Mend the file, or name it .jsonl.")
        return
    for number, record in enumerate(records if isinstance(records, list) else [records], start=1):
        if isinstance(record, dict):
            yield number, record
        else:
            faults.add("broken_json", number, "the entry is not a JSON object", "Write {...}.")


def _find_separator(content: str) -> str:
    """What stands between the names of a table's columns; in many countries it is a semicolon."""
    names = content.partition("\n")[0]
    return max(",;|\t", key=names.count)


def _table_reader(separator: str | None = None) -> Callable[[Path, _Faults], Iterator[Numbered]]:
    def read_table(file: Path, faults: _Faults) -> Iterator[Numbered]:
        content = _decode_text(file, faults)
        if not content.strip():
            return
        try:
            frame = polars.read_csv(
                io.StringIO(content),
                separator=separator or _find_separator(content),
                infer_schema=False,
            )
        except polars.exceptions.PolarsError as error:
            cause = str(error).splitlines()[0]
            faults.add("broken_table", 1, f"the table can't be read: {cause}", "Mend the quoting.")
            return
        yield from enumerate(frame.iter_rows(named=True), start=1)

    return read_table


def _parquet(file: Path, faults: _Faults) -> Iterator[Numbered]:
    try:
        frame = polars.read_parquet(file)
    except (polars.exceptions.PolarsError, OSError) as error:
        cause = str(error).splitlines()[0]
        faults.add("broken_table", 1, f"the table can't be read: {cause}", "Write it again.")
        return
    yield from enumerate(frame.iter_rows(named=True), start=1)


def _paragraphs(file: Path, faults: _Faults) -> Iterator[Numbered]:
    line = 1
    for part in re.split(r"(\n\s*\n)", _decode_text(file, faults)):
        if part.strip():
            yield line, {"text": part.strip()}
        line += part.count("\n")


READERS: dict[str, Callable[[Path, _Faults], Iterator[Numbered]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": _table_reader(),
    ".tsv": _table_reader("\t"),
    ".parquet": _parquet,
    ".txt": _paragraphs,
    ".md": _paragraphs,
}
