"""Split rows into training, validation and test: by seed, stratified by label, clusters kept
together.

A cluster is what must stay together: near duplicates, rows of one conversation, and rows of one
group (a customer). The order in which clusters are drawn is a hash of the seed and of their
content, so that adding rows or sorting the file moves no other row.
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
    """Return (remaining rows, drawn rows): about `share` of each label's rows are drawn."""
    if share <= 0 or len(rows) < 2:
        return tuple(rows), ()
    members: dict[int, list[int]] = defaultdict(list)
    for index, cluster in enumerate(link_clusters(len(rows), _links(rows, near))):
        members[cluster].append(index)
    order = sorted(members.values(), key=lambda indices: _shuffle_key(rows, indices, seed))
    drawn = {index for indices in _select_clusters(rows, order, share) for index in indices}
    remaining = tuple(row for index, row in enumerate(rows) if index not in drawn)
    return remaining, tuple(rows[index] for index in sorted(drawn))


def _select_clusters(
    rows: Sequence[Row], order: Sequence[list[int]], share: float
) -> list[list[int]]:
    """Return the clusters that are drawn, given all in their order.

    For each label about its share, skipping clusters that are too large; then, for a label without
    any, the smallest cluster. A cluster with all rows of a label stays.
    """
    holders: dict[str | None, list[list[int]]] = defaultdict(list)
    for indices in order:
        for label in dict.fromkeys(rows[index].label for index in indices):
            holders[label].append(indices)
    sole_clusters = {
        clusters[0][0]
        for label, clusters in holders.items()
        if len(clusters) == 1 and label is not None
    }
    strata: dict[str | None, list[list[int]]] = defaultdict(list)
    for indices in order:
        strata[rows[indices[0]].label].append(indices)
    drawn: list[list[int]] = []
    for label, groups in strata.items():
        wanted = share * sum(map(len, groups))
        # Each label that has several clusters gives at least one row.
        wanted = max(wanted, 1.0) if len(groups) > 1 and label is not None else wanted
        taken = 0
        for indices in groups:
            if indices[0] not in sole_clusters and taken + len(indices) / 2 <= wanted:
                drawn.append(indices)
                taken += len(indices)
    for label, groups in holders.items():
        drawn_firsts = {indices[0] for indices in drawn}
        candidates = [indices for indices in groups if indices[0] not in sole_clusters]
        is_drawn = any(indices[0] in drawn_firsts for indices in groups)
        if not is_drawn and len(groups) > 1 and candidates and _may_give(label, rows, share):
            drawn.append(min(candidates, key=len))
    return drawn


def _may_give(label: str | None, rows: Sequence[Row], share: float) -> bool:
    """Return whether a row must be drawn: for each label; without labels, if the share rounds to
    one."""
    return label is not None or share * len(rows) >= 0.5


def sample_rows(rows: Sequence[Row], most: int | None, seed: int) -> tuple[Row, ...]:
    """Return at most `most` rows, drawn by seed, in their original order."""
    if most is None or len(rows) <= most:
        return tuple(rows)
    chosen = sorted(range(len(rows)), key=lambda index: _shuffle_key(rows, [index], seed))[:most]
    return tuple(rows[index] for index in sorted(chosen))


def _links(rows: Sequence[Row], near: float) -> Iterator[tuple[int, int]]:
    yield from find_near_pairs([question_text(row) for row in rows], near)
    yield from find_continued(rows)
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        for key in (f"group {row.group}" if row.group else None, said_hash(row)):
            if key is not None:
                yield first.setdefault(key, index), index


def _shuffle_key(rows: Sequence[Row], indices: Sequence[int], seed: int) -> str:
    key = min(said_hash(rows[index]) for index in indices)
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()
