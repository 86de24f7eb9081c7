"""What the search needs of a place where passages and their vectors are kept: a small protocol."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

#: Passage id and score, best first; higher is better.
Ranking = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a file: characters `start` to `end` of its text (rag.documents).

    `headings` are those above it, outermost first; `page` counts from 1, in PDFs only.
    """

    file: str
    title: str
    headings: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str

    @property
    def section(self) -> str:
        """Title and headings as one line: `Skua > Lights`."""
        return " > ".join(dict.fromkeys((self.title, *self.headings)))

    @property
    def source(self) -> str:
        """What a citation says: `skua.md, page 3: Skua > Lights (characters 120 to 340)`."""
        page = f", page {self.page}" if self.page else ""
        return f"{self.file}{page}: {self.section} (characters {self.start} to {self.end})"


class PassageStore(Protocol):
    """What the search needs of a store; a vector server can stand here."""

    def facts(self) -> dict[str, Any]:
        """What was put down about the index; empty if it is new."""

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Put it down."""

    def digests(self) -> dict[str, str]:
        """File → hash of the content whose passages are here."""

    def replace(self, file: str, digest: str, passages: Sequence[Passage], vectors: Any) -> None:
        """Take a file's passages for those of before, whole or not at all.

        `vectors` is an array of float32 of shape (passages, width).
        """

    def remove(self, files: Collection[str]) -> None:
        """Forget these files."""

    def refresh(self) -> None:
        """Make what was put down quick to search; the first search does it otherwise."""

    def close(self) -> None:
        """Let go of it."""

    def count(self) -> int:
        """How many passages there are."""

    def search_vectors(
        self, vector: np.ndarray, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """The passages whose vectors are nearest by dot product, of these files only."""

    def search_words(
        self, question: str, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """The passages with the highest BM25, of these files only."""

    def passages(self, ids: Sequence[int]) -> list[Passage]:
        """Passages by id, in that order."""
