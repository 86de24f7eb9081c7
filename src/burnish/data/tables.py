"""Tables: CSV as spreadsheets write it, and Parquet. Each record is a mapping by column."""

import csv
import io
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars

from burnish.data.faults import Faults, Numbered, text_of

#: Possible separators; in many countries it is a semicolon.
_SEPARATORS = ",;|\t"
#: The first line that declares the separator for Excel.
_TOLD = re.compile(r"sep=(.)\r?(?:\n|\Z)", re.IGNORECASE)
#: Maximum characters of a field: the library's default is 131,072.
_LONGEST = 1 << 30
#: The program of a child process that tries to read a Parquet file.
_TRY = "import sys, polars; polars.read_parquet(sys.argv[1])"


def read_table(file: Path, faults: Faults, separator: str = "") -> Iterator[Numbered]:
    """Yield the rows of a table of texts, numbered from 1 below the header; an empty field is None.

    A row with more fields than the header, or with an unclosed quote, is a fault.
    """
    content = _with_line_feeds(text_of(file, faults))
    if declared := _TOLD.match(content):
        separator, content = declared[1], content[declared.end() :]
    if not content.strip():
        return
    csv.field_size_limit(_LONGEST)
    lines = io.StringIO(content, newline="")
    rows = csv.reader(lines, delimiter=separator or _separator(content), strict=True)
    names: list[str] | None = None
    number = 0
    while True:
        first_line = rows.line_num + 1
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            number += names is not None
            fault = f"the row at line {first_line} of the file can't be read: {error}"
            faults.add("broken_table", max(number, 1), fault, "Fix its quotes.")
            if names is None:
                return
            continue
        if names is None:
            names = _names(fields)
            continue
        if not fields:  # an empty line
            continue
        number += 1
        if len(fields) > len(names):
            fault = f"the row has {len(fields)} fields, and there are {len(names)} columns"
            faults.add("broken_table", number, fault, "Put the field with a separator in quotes.")
            continue
        values: list[str | None] = [field or None for field in fields]
        values += [None] * (len(names) - len(fields))
        yield number, dict(zip(names, values, strict=True))


def read_parquet(file: Path, faults: Faults) -> Iterator[Numbered]:
    """Yield the rows of a Parquet file; NaN, by which tables mark missing values, is None."""
    if not _can_be_read(file):
        fault = "the table can't be read: it crashes the reader"
        faults.add("broken_table", 1, fault, "Write it again.")
        return
    try:
        frame = polars.read_parquet(file)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        cause = (str(error).splitlines() or ["it is broken"])[0]
        faults.add("broken_table", 1, f"the table can't be read: {cause}", "Write it again.")
        return
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        yield number, {name: None if _is_nan(value) else value for name, value in row.items()}


def _can_be_read(file: Path) -> bool:
    """Return whether a child process survives reading the file: polars aborts on absurd sizes,
    without an exception. Errors that it raises don't matter here."""
    result = subprocess.run(
        [sys.executable, "-c", _TRY, str(file)], stdin=subprocess.DEVNULL, capture_output=True
    )
    return result.returncode >= 0


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _with_line_feeds(content: str) -> str:
    """Return the content with line feeds, if its lines end in carriage returns alone."""
    return content if "\n" in content else content.replace("\r", "\n")


def _separator(content: str) -> str:
    """Return the separator that splits the first line into most names; a quoted name may contain
    any."""
    line = content.partition("\n")[0]

    def names(separator: str) -> int:
        try:
            return len(next(csv.reader([line], delimiter=separator), []))
        except csv.Error:
            return 0

    return max(_SEPARATORS, key=names)


def _names(fields: Sequence[str]) -> list[str]:
    """Return column names without surrounding spaces; repeated ones are numbered."""
    names: list[str] = []
    for field in map(str.strip, fields):
        repeats = sum(name == field or name.startswith(f"{field}_duplicated_") for name in names)
        names.append(f"{field}_duplicated_{repeats - 1}" if repeats else field)
    return names
