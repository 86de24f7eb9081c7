"""Findings while a file is read, and the file's text."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from burnish.core.records import Finding
from burnish.data.findings import CODES

#: A record with its number, from 1.
Numbered = tuple[int, Any]


class Faults:
    """Findings of one file, grouped by cause."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.rows: dict[tuple[str, str, str], list[int]] = defaultdict(list)

    def add(self, code: str, number: int, message: str, fix: str) -> None:
        """Add one, with the number of its row."""
        self.rows[code, message, fix].append(number)

    def findings(self) -> list[Finding]:
        """Return all findings, each cause once."""
        return [
            Finding(
                code, CODES[code][0], self.file, tuple(rows),
                message[0].upper() + message[1:] + ("" if message.endswith(".") else "."), fix,
            )
            for (code, message, fix), rows in self.rows.items()
        ]  # fmt: skip


def text_of(file: Path, faults: Faults) -> str:
    """Return the file as text. A wrong encoding is a finding that names the likely encoding."""
    content = file.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_wide(content):
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


def _is_wide(content: bytes) -> bool:
    """Return whether it is UTF-16 without a byte order mark: every other byte of its beginning is
    0."""
    head = content[:64]
    return len(head) > 3 and any(not any(head[offset::2]) for offset in (0, 1))
