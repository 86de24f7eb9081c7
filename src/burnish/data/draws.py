"""Draws: which test rows were sampled together, such as rows of one customer, one conversation, or
one question.

Near duplicates are not linked: each question of a template may have its own answer, and a chain of
them would link all. `burnish check` reports them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from burnish.core.clusters import FEW, effective_number
from burnish.core.records import Row
from burnish.data.duplicates import asked_hash, find_continued, link_clusters


def grouped(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows with those of one draw in one group; a single row keeps its own group, if
    any."""
    first = link_clusters(len(rows), _links(rows))
    count = Counter(first)
    return tuple(
        replace(
            row,
            group=(rows[first_index].group or rows[first_index].id)
            if count[first_index] > 1
            else row.group,
        )
        for row, first_index in zip(rows, first, strict=True)
    )


def _links(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    yield from find_continued(rows)
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        keys = [f"asked {asked_hash(row)}", *([f"group {row.group}"] if row.group else [])]
        for key in keys:
            yield first.setdefault(key, index), index


def words_of(rows: Sequence[Row]) -> str:
    """Describe dependent rows in a sentence; empty if there are none."""
    numbers: dict[str, int] = {}
    owners = [numbers.setdefault(row.group or row.id, len(numbers)) for row in rows]
    if len(numbers) == len(rows):
        return ""
    text = (
        f"The {len(rows)} test questions are of {len(numbers)} groups or conversations, each of "
        "which counts as one draw in intervals and tests; the same question is one draw, however "
        "often it is asked."
    )
    number = effective_number(owners)
    if number < FEW:
        text += (
            f" The largest dominate, so that all together are worth only {number:.1f} equal ones: "
            "hardly anything can be shown without rows of other groups."
        )
    return text
