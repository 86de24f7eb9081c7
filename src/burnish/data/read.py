"""Read files into rows and findings. A broken row is a finding with its number, never a crash."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from burnish.core.atomic import hash_file, refuse_missing
from burnish.core.errors import BadData
from burnish.core.json_text import BadJson, parse_entries, parse_json
from burnish.core.recipe.data import Data, Task
from burnish.core.records import Finding, Row
from burnish.data.faults import Faults, Numbered, text_of
from burnish.data.formats import FORMATS, detect_format
from burnish.data.images import insert_before_question, unread_image_columns, with_images
from burnish.data.spans import BadRow
from burnish.data.tables import read_parquet, read_table


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The content of files: usable rows, findings about the others, and the files' hashes."""

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    hashes: Mapping[str, str]


def read_files(files: Sequence[Path], data: Data, task: Task) -> ReadResult:
    """Read all rows of all files, in order.

    Raises NotFound for a missing file, BadData for one whose rows have no known format.
    """
    rows: list[Row] = []
    findings: list[Finding] = []
    for file in files:
        refuse_missing(file)
        file_rows, file_findings = _read_file(file, data)
        rows += file_rows
        findings += file_findings
    return ReadResult(tuple(rows), tuple(findings), {str(file): hash_file(file) for file in files})


def read_records(file: Path) -> list[Numbered]:
    """Read the records of one file with their numbers, in any format. Raises NotFound, BadData."""
    refuse_missing(file)
    records, faults = _records(file)
    for finding in faults.findings():
        if finding.severity == "error":
            raise BadData(finding.summary, finding.fix)
    return records


def _records(file: Path) -> tuple[list[Numbered], Faults]:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise BadData(
            f"{file}: files of kind `{file.suffix}` can't be read.",
            f"Supported kinds: {', '.join(READERS)}.",
        )
    faults = Faults(str(file))
    return list(reader(file, faults)), faults


def _read_file(file: Path, data: Data) -> tuple[list[Row], list[Finding]]:
    records, faults = _records(file)
    if not records:
        return [], faults.findings()
    keys = {str(key) for _, record in records for key in record}
    row_format = FORMATS[data.format if data.format != "auto" else _detect_format(file, keys, data)]
    if data.format == "auto" and row_format is FORMATS["text"]:
        _look_beside_text(keys, data, faults)
    rows = []
    for number, record in records:
        try:
            loaded, images = with_images(record, data)
            row = row_format.convert(loaded, data.columns)
            row = insert_before_question(row, images) if images else row
        except BadRow as fault:
            faults.add(fault.finding, number, fault.what, fault.fix)
            continue
        for column in unread_image_columns(record, data):
            faults.add(
                "unread_pictures", number,
                f"the column `{column}` contains images that aren't read",
                f"If they belong to the question: data.columns.image={column}",
            )  # fmt: skip
        group, kind = _column_text(record, data.group), _column_text(record, data.question_type)
        rows.append(replace(row, file=str(file), line=number, group=group, type=kind))
    return rows, faults.findings()


def _look_beside_text(keys: set[str], data: Data, faults: Faults) -> None:
    """Report other columns beside plain text: a labelled table with custom column names looks like
    it."""
    column = data.columns.text or "text"
    named = {column, *data.columns.model_dump().values(), data.group, data.question_type}
    others = sorted(keys - named)
    if others:
        faults.add(
            "unread_columns", 1,
            f"`{column}` is read as plain text; other columns are ignored: {', '.join(others)}",
            f"If {others[0]} is the answer: data.columns.prompt={column} and "
            f"data.columns.label={others[0]} (a class) or data.columns.completion={others[0]}; "
            "if plain text is intended: data.format=text.",
        )  # fmt: skip


def _column_text(record: Mapping[str, Any], column: str | None) -> str | None:
    """Return the text of a column that the recipe names; None if it is missing or empty."""
    value = record.get(column) if column else None
    return None if value is None or value == "" else str(value)


def _detect_format(file: Path, keys: set[str], data: Data) -> str:
    try:
        return detect_format(keys, data.columns)
    except BadData as error:
        raise BadData(f"{file}: {error.what}", error.fix) from error


def _json_lines(file: Path, faults: Faults) -> Iterator[Numbered]:
    for number, line in enumerate(text_of(file, faults).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except BadJson as error:
            fault = f"the line is not JSON: {error.reason}"
            faults.add("broken_json", number, fault, "Fix the line: one object per line.")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            faults.add("broken_json", number, "the line is not a JSON object", "Write {...}.")


def _json_array(file: Path, faults: Faults) -> Iterator[Numbered]:
    try:
        entries = parse_entries(text_of(file, faults) or "[]")
    except BadJson as error:
        fault = f"the file is not JSON: {error.reason}"
        faults.add("broken_json", error.line, fault, "Fix that line, or rename the file to .jsonl.")
        return
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, dict):
            yield number, entry
        elif isinstance(entry, BadJson):
            faults.add("broken_json", number, f"the entry is not JSON: {entry.reason}", "Fix it.")
        else:
            faults.add("broken_json", number, "the entry is not a JSON object", "Write {...}.")


def _paragraphs(file: Path, faults: Faults) -> Iterator[Numbered]:
    line = 1
    for part in re.split(r"(\n\s*\n)", text_of(file, faults)):
        if part.strip():
            yield line, {"text": part.strip()}
        line += part.count("\n")


READERS: dict[str, Callable[[Path, Faults], Iterator[Numbered]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": read_table,
    ".tsv": partial(read_table, separator="\t"),
    ".parquet": read_parquet,
    ".txt": _paragraphs,
    ".md": _paragraphs,
}
