"""The rows of Olive's `--data_name`, read with `datasets` as Olive does, as lines of our own."""

import importlib.util
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.atomic import hash_bytes, write_atomic
from burnish.core.errors import BadData, NotFound, Unavailable
from burnish.core.settings import workspace

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
#: The ending of a file → the builder of `datasets` that reads it.
_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
DataRecord = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """A data set by name (a hub id, a folder, or a builder such as `json`), or by its files."""

    name: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowTemplate:
    """What is learnt of a record: a column, a template of columns, or its `messages`.

    With `answer_only` the template's last column is the answer, and what stands before it is asked.
    """

    field: str | None = None
    template: str | None = None
    answer_only: bool = False


def load_records(source: DatasetSource, split: str) -> list[DataRecord]:
    """All records of a split; `train[:100]` slices it. Raises NotFound, Unavailable."""
    if importlib.util.find_spec("datasets") is None:
        raise Unavailable(
            "What --data_name names is read with the library datasets.",
            "pip install 'burnish[olive]'",
        )
    import datasets

    datasets.disable_progress_bars()
    name = source.name or _builder_for(source.files)
    files = list(source.files) or None
    try:
        with tempfile.TemporaryDirectory() as cache:
            return list(datasets.load_dataset(name, data_files=files, split=split, cache_dir=cache))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        where = f"`{name}`" + (f" ({', '.join(source.files)})" if files else "")
        raise NotFound(
            f"The split {split} of the data set {where} can't be read: {error}",
            "Name a hub id, a folder with the files, or `--data_name json --data_files FILE`.",
        ) from error


def write_rows(records: Iterable[DataRecord], row_format: RowTemplate) -> Path:
    """Write records as lines that `burnish train` reads, and return the file.

    It lies in the workspace under the hash of what is in it, so that a run can be gone on with.
    Raises BadData for a column that isn't there.
    """
    convert = _make_converter(row_format)
    lines = [json.dumps(convert(record), ensure_ascii=False) for record in records]
    content = "".join(f"{line}\n" for line in lines).encode()
    file = workspace() / "olive" / f"{hash_bytes(content)[:16]}.jsonl"
    write_atomic(file, content)
    return file


def _make_converter(shape: RowTemplate) -> Callable[[DataRecord], dict[str, Any]]:
    if shape.template is not None:
        # A shell hands over a backslash and an n where the documents mean a new line.
        template = shape.template.replace("\\n", "\n").replace("\\t", "\t")
        return (
            _split_template(template)
            if shape.answer_only
            else lambda r: {"text": _fill(template, r)}
        )
    if shape.field is not None:
        return lambda record: {"text": str(_read_column(record, str(shape.field)))}
    return lambda record: {"messages": _read_column(record, "messages")}


def _split_template(template: str) -> Callable[[DataRecord], dict[str, Any]]:
    """Question and answer: the template up to its last column, and that column."""
    found = list(_PLACEHOLDER.finditer(template))
    if not found:
        raise BadData(f"The template {template!r} names no column.", "Write {column} in it.")
    head, answer = template[: found[-1].start()], found[-1][1]
    return lambda record: {
        "prompt": _fill(head, record).strip(),
        "completion": str(_read_column(record, answer)),
    }


def _fill(template: str, record: DataRecord) -> str:
    return _PLACEHOLDER.sub(lambda field: str(_read_column(record, field[1])), template)


def _read_column(record: DataRecord, name: str) -> Any:
    if name not in record:
        raise BadData(f"The data has no column `{name}`.", f"It has: {', '.join(record)}.")
    return record[name]


def _builder_for(files: Sequence[str]) -> str:
    endings = {Path(file).suffix for file in files}
    if len(endings) != 1 or not endings <= set(_BUILDERS):
        raise BadData("No data set is named.", "Add --data_name NAME, or --data_files FILE.jsonl")
    return _BUILDERS[endings.pop()]
