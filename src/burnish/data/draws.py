"""What of the test rows was drawn by chance: rows of one customer, of one conversation, or of one
question are one draw.

Near duplicates are not bound together: of a template's questions each may be answered in its own
way, and a chain of them would bind all. `burnish check` names them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from burnish.core.clusters import FEW, effective_number
from burnish.core.records import Row
from burnish.data.duplicates import asked_hash, find_continued, link_clusters


def grouped(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, those that are one draw as one group; a row by itself keeps its own, if any."""
    first = link_clusters(len(rows), _links(rows))
    count = Counter(first)
    return tuple(
        replace(row, group=(rows[own].group or rows[own].id) if count[own] > 1 else row.group)
        for row, own in zip(rows, first, strict=True)
    )


def _links(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    yield from find_continued(rows)
    seen: dict[str, int] = {}
    for place, row in enumerate(rows):
        keys = [f"asked {asked_hash(row)}", *([f"group {row.group}"] if row.group else [])]
        for key in keys:
            yield seen.setdefault(key, place), place


def words_of(rows: Sequence[Row]) -> str:
    """What is to be said of rows that hang together, as a sentence; empty if none do."""
    numbers: dict[str, int] = {}
    owners = [numbers.setdefault(row.group or row.id, len(numbers)) for row in rows]
    if len(numbers) == len(rows):
        return ""
    told = (
        f"The {len(rows)} test questions are of {len(numbers)} groups or conversations, each of "
        "which counts as one draw in intervals and tests; the same question is one draw, however "
        "often it is asked."
    )
    number = effective_number(owners)
    if number < FEW:
        told += (
            f" The largest weigh so much that all of them tell no more than {number:.1f} equal "
            "ones would: hardly anything can be shown without rows of other groups."
        )
    return told
