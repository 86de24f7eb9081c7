"""The protocol of a store for passages and their vectors."""

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
        """A citation: `skua.md, page 3: Skua > Lights (characters 120 to 340)`."""
        page = f", page {self.page}" if self.page else ""
        return f"{self.file}{page}: {self.section} (characters {self.start} to {self.end})"


class PassageStore(Protocol):
    """What search needs of a store; a vector database can implement it."""

    def facts(self) -> dict[str, Any]:
        """Return the recorded facts about the index; empty if it is new."""

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Record the facts about the index."""

    def digests(self) -> dict[str, str]:
        """Return file → content hash of the indexed files."""

    def replace(self, file: str, digest: str, passages: Sequence[Passage], vectors: Any) -> None:
        """Replace a file's passages, all or nothing.

        `vectors` is an array of float32 of shape (passages, width).
        """

    def remove(self, files: Collection[str]) -> None:
        """Remove these files."""

    def refresh(self) -> None:
        """Prepare new content for fast search; otherwise the first search does."""

    def close(self) -> None:
        """Close the store."""

    def count(self) -> int:
        """Return the number of passages."""

    def search_vectors(
        self, vector: np.ndarray, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """Return the passages with the nearest vectors by dot product, of these files only."""

    def search_words(
        self, question: str, most: int, files: Collection[str] | None = None
    ) -> Ranking:
        """Return the passages with the highest BM25, of these files only."""

    def passages(self, ids: Sequence[int]) -> list[Passage]:
        """Return passages by id, in that order."""
