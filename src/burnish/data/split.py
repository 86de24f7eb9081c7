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
    find_continued,
    find_near_pairs,
    link_clusters,
    question_text,
    said_hash,
)


def draw_split(
    rows: Sequence[Row], share: float, seed: int, near: float
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """(rows that stay, rows drawn): about `share` of each label's rows are drawn."""
    if share <= 0 or len(rows) < 2:
        return tuple(rows), ()
    members: dict[int, list[int]] = defaultdict(list)
    for place, cluster in enumerate(link_clusters(len(rows), _links(rows, near))):
        members[cluster].append(place)
    order = sorted(members.values(), key=lambda places: _shuffle_key(rows, places, seed))
    drawn = {place for places in _select_clusters(rows, order, share) for place in places}
    stays = tuple(row for place, row in enumerate(rows) if place not in drawn)
    return stays, tuple(rows[place] for place in sorted(drawn))


def _select_clusters(
    rows: Sequence[Row], order: Sequence[list[int]], share: float
) -> list[list[int]]:
    """The clusters that are drawn, of all in their order.

    Of each label about its share, where a cluster that is too large is passed over; then, of a
    label that has none, the smallest cluster. A cluster that has all rows of a label stays.
    """
    holders: dict[str | None, list[list[int]]] = defaultdict(list)
    for places in order:
        for label in dict.fromkeys(rows[place].label for place in places):
            holders[label].append(places)
    alone = {some[0][0] for label, some in holders.items() if len(some) == 1 and label is not None}
    strata: dict[str | None, list[list[int]]] = defaultdict(list)
    for places in order:
        strata[rows[places[0]].label].append(places)
    drawn: list[list[int]] = []
    for label, groups in strata.items():
        wanted = share * sum(map(len, groups))
        # A label that can spare a row gives one, so that each label is asked.
        wanted = max(wanted, 1.0) if len(groups) > 1 and label is not None else wanted
        taken = 0
        for places in groups:
            if places[0] not in alone and taken + len(places) / 2 <= wanted:
                drawn.append(places)
                taken += len(places)
    for label, groups in holders.items():
        first = {places[0] for places in drawn}
        spare = [places for places in groups if places[0] not in alone]
        is_asked = any(places[0] in first for places in groups)
        if not is_asked and len(groups) > 1 and spare and _may_give(label, rows, share):
            drawn.append(min(spare, key=len))
    return drawn


def _may_give(label: str | None, rows: Sequence[Row], share: float) -> bool:
    """Whether a row is wanted: of each label; without labels, where the share comes to one."""
    return label is not None or share * len(rows) >= 0.5


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
        for key in (f"group {row.group}" if row.group else None, said_hash(row)):
            if key is not None:
                yield first.setdefault(key, place), place


def _shuffle_key(rows: Sequence[Row], places: Sequence[int], seed: int) -> str:
    key = min(said_hash(rows[place]) for place in places)
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()
