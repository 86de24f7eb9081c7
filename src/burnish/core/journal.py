"""Append-only JSON lines: `metrics.jsonl` and `events.jsonl` of a run."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from burnish.core.atomic import write_atomic


class Journal:
    """Append one JSON object per line; each line is on disk before `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)

    def write(self, **fields: Any) -> None:
        """Append `fields` with the time (seconds since the epoch) as `at`."""
        line = json.dumps({"at": round(time.time(), 3), **fields}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def _drop_torn_line(path: Path) -> None:
    """Cut a last line without its newline, so that the next entry starts a line of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines. A last line torn by a power cut is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def rewrite_journal(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Replace the whole journal by `entries`, atomically."""
    lines = (json.dumps(dict(entry), ensure_ascii=False) + "\n" for entry in entries)
    write_atomic(path, "".join(lines))
