"""Binary vectors, one bit per dimension: nearest neighbours among a million in milliseconds.

The Hamming distance of the sign bits approximates the angle. The bits are scanned exhaustively, and
only the best candidates are compared by their exact vectors (docs/decisions/0008).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Passages scanned at once, so that their bits stay in the processor's cache.
_BLOCK = 1 << 15


def binarize(vectors: np.ndarray) -> np.ndarray:
    """Return the positive dimensions of (passages, width): uint64 of shape (passages, width /
    64)."""
    bits = np.packbits(vectors > 0, axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


@dataclass(frozen=True, slots=True)
class BinaryVectors:
    """The sign bits of an index.

    `ids` and `documents` are int64 of shape (passages,), ids ascending; `columns` is uint64 of
    shape (width / 64, passages), so that a step of the scan reads contiguous memory.
    """

    ids: np.ndarray
    documents: np.ndarray
    columns: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[int, int, int, bytes]]) -> "BinaryVectors":
        """Build from rows (document, its first passage's id, number of passages, their bits), by
        passage."""
        counts = np.array([row[2] for row in rows], dtype=np.int64)
        firsts = np.array([row[1] for row in rows], dtype=np.int64)
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        documents = np.repeat(np.array([row[0] for row in rows], dtype=np.int64), counts)
        bits = np.frombuffer(b"".join(row[3] for row in rows), dtype=np.uint64)
        columns = bits.reshape(len(within), -1).T if rows else np.zeros((0, 0), dtype=np.uint64)
        return cls(np.repeat(firsts, counts) + within, documents, np.ascontiguousarray(columns))

    def nearest(
        self, vector: np.ndarray, most: int, documents: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the ids of the `most` passages of these documents whose signs agree best, in any
        order."""
        rows = np.arange(len(self.ids)) if documents is None else self._select_rows(documents)
        if len(rows) > most:
            rows = rows[np.argpartition(self._hamming_distances(vector)[rows], most)[:most]]
        nearest_ids: np.ndarray = self.ids[rows]
        return nearest_ids

    def _select_rows(self, documents: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.isin(self.documents, documents))

    def _hamming_distances(self, vector: np.ndarray) -> np.ndarray:
        """Return the number of differing signs for each passage: uint16."""
        question_bits = binarize(vector[None])[0]
        differences = np.zeros(len(self.ids), dtype=np.uint16)
        for begin in range(0, len(differences), _BLOCK):
            block = differences[begin : begin + _BLOCK]
            for column, bits in zip(self.columns, question_bits, strict=True):
                block += np.bitwise_count(column[begin : begin + _BLOCK] ^ bits)
        return differences
