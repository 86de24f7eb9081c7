"""What a command of Olive left behind, for people and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class OliveReport:
    """The folder that was written, what is otherwise than in Olive, and what to do next."""

    command: str
    folder: Path
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    next: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish olive --json` prints."""
        return {
            "command": self.command,
            "folder": str(self.folder),
            **self.facts,
            "notes": list(self.notes),
            "next": self.next,
        }
