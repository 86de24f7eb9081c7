"""Training, validation and test rows: by seed, stratified by label, no cluster torn.

A cluster is what must stay together: near duplicates, rows of one conversation, and rows of one
group (a customer). The order in which clusters are drawn is a hash of the seed and of what they
say, so that adding rows or sorting the file moves no other row.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

from burnish.core.records import Row
from burnish.data.duplicates import (
    content_hash,
    find_continued,
    find_near_pairs,
    link_clusters,
    question_text,
)


def draw_split(
    rows: Sequence[Row], share: float, seed: int, near: float
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """(rows that stay, rows drawn): about `share` of each label's rows are drawn."""
    if share <= 0 or len(rows) < 2:
        return tuple(rows), ()
    together = link_clusters(len(rows), _links(rows, near))
    members: dict[int, list[int]] = defaultdict(list)
    for place, cluster in enumerate(together):
        members[cluster].append(place)
    strata: dict[str | None, list[list[int]]] = defaultdict(list)
    for places in members.values():
        strata[rows[places[0]].label].append(places)
    drawn: set[int] = set()
    for label, groups in strata.items():
        groups.sort(key=lambda places: _shuffle_key(rows, places, seed))
        wanted = share * sum(len(places) for places in groups)
        # A label that can spare a row gives one, so that each label is asked.
        wanted = max(wanted, 1.0) if len(groups) > 1 and label is not None else wanted
        taken = 0
        for places in groups:
            if taken + len(places) / 2 > wanted:
                break
            drawn.update(places)
            taken += len(places)
    stays = tuple(row for place, row in enumerate(rows) if place not in drawn)
    return stays, tuple(rows[place] for place in sorted(drawn))


def sample_rows(rows: Sequence[Row], most: int | None, seed: int) -> tuple[Row, ...]:
    """At most `most` rows, drawn by seed, in their order."""
    if most is None or len(rows) <= most:
        return tuple(rows)
    chosen = sorted(range(len(rows)), key=lambda place: _shuffle_key(rows, [place], seed))[:most]
    return tuple(rows[place] for place in sorted(chosen))


def _links(rows: Sequence[Row], near: float) -> Iterator[tuple[int, int]]:
    yield from find_near_pairs([question_text(row) for row in rows], near)
    yield from find_continued(rows)
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        for key in (f"group {row.group}" if row.group else None, content_hash(row)):
            if key is not None:
                yield first.setdefault(key, place), place


def _shuffle_key(rows: Sequence[Row], places: Sequence[int], seed: int) -> str:
    key = min(content_hash(rows[place]) for place in places)
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()
