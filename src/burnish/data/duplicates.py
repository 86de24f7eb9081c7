"""Rows that say the same thing, exactly and nearly.

Two texts are near duplicates if the Jaccard similarity of their words and word pairs reaches a
threshold. All such pairs are found, not most of them: with the words sorted from rare to common,
two sets that similar must share one of their first few (prefix filtering: Bayardo, Ma & Srikant
2007, "Scaling up all pairs similarity search"; Xiao et al. 2008, PPJoin).
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from burnish.core.atomic import hash_json
from burnish.core.images import image_names_in
from burnish.core.records import Message, Row

_WORD = re.compile(r"\w+")

#: In data of at least this many rows, a word pair that stands in over half of them is the frame of
#: the prompt and not what the row says.
_FRAME_ROWS = 20
#: Different questions that may follow a beginning of one conversation.
_GREETING = 5


def content_hash(row: Row) -> str:
    """All that a training, a question or a grader sees of a row, whatever file and line it stands
    on: what is said, and the keys that graders may name."""
    items = [{"item": repr(sorted(row.item.items()))}] if row.item else []
    return hash_json([*_spoken(row), *_offered(row), *items])


def said_hash(row: Row) -> str:
    """What a row says: its turns, which of them are learnt, and the tools that are offered. Rows
    with other numbers or dates beside them say the same."""
    return hash_json([*_spoken(row), *_offered(row)])


def earlier_hash(row: Row) -> str:
    """What `content_hash` was before it looked at weights, tools and the keys of graders: a test
    split that was frozen then is found by it."""
    return hash_json(_spoken(row))


def _spoken(row: Row) -> list[Any]:
    turns = [message.as_template() for message in row.messages]
    other = row.rejected.as_template() if row.rejected else None
    judged = [other, row.desirable] if row.is_preference else []
    marked = [[asdict(span) for span in row.spans]] if row.spans else []
    return [turns, row.text, row.label, *judged, *marked]


def _offered(row: Row) -> list[Any]:
    """Weights and tools, where they aren't the usual ones."""
    weights = [message.weight for message in row.messages]
    unusual = [{"weights": weights}] if any(weight != 1.0 for weight in weights) else []
    return [*unusual, *([{"tools": [dict(tool) for tool in row.tools]}] if row.tools else [])]


def asked_hash(row: Row) -> str:
    """What a row asks: all turns before the answer, and the tools. Rows that ask the same are one
    question, however often they stand in a test."""
    turns = [message.as_template() for message in row.prompt]
    return hash_json([turns, row.text, [dict(tool) for tool in row.tools]])


def question_text(row: Row) -> str:
    """The text by which rows are compared: what the user says, or the plain text."""
    if row.text is not None:
        return row.text
    return _user_text(row.prompt)


def _user_text(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages if message.role == "user")


def find_continued(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Pairs of places: a row, and one whose conversation has asked the same on its way (servers log
    each turn as a row with all turns before it). A beginning that goes on in more than a few ways
    is a greeting, and binds nobody."""
    whole: dict[str, list[int]] = defaultdict(list)
    onward: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, row in enumerate(rows):
        asked = [normalize_text(text) for text in _questions(row)]
        whole[asked[-1]].append(place)
        for one, following in itertools.pairwise(asked):
            onward[one][following].append(place)
    for text, ways in onward.items():
        if len(ways) <= _GREETING:
            both = itertools.product(whole[text], itertools.chain.from_iterable(ways.values()))
            yield from ((one, other) for one, other in both if one != other)


def _questions(row: Row) -> list[str]:
    """What had been said to the assistant at each answer of a row, by users and by tools."""
    if row.text is not None:
        return [row.text]
    said = enumerate(row.prompt)
    places = [place for place, message in said if message.role == "assistant"]
    return [_told(row.messages[:place]) for place in (*places, len(row.prompt))]


def _told(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages if message.role in ("user", "tool"))


def normalize_text(text: str) -> str:
    """Lower case, words only: what makes two questions the same question."""
    return " ".join(_WORD.findall(text.lower()))


def find_near_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    """All pairs of positions i < j whose similarity is at least `threshold`. Texts with other
    pictures in them are never similar."""
    pictures = [image_names_in(text) for text in texts]
    sets = _without_frame([_shingles(text) for text in texts])
    common = Counter(shingle for some in sets for shingle in some)
    ordered = [sorted(some, key=lambda shingle: (common[shingle], shingle)) for some in sets]
    by_size = sorted(range(len(sets)), key=lambda place: len(sets[place]))
    index: dict[str, list[int]] = defaultdict(list)
    for place in by_size:
        size = len(sets[place])
        if not size:
            continue
        prefix = ordered[place][: size - math.ceil(threshold * size) + 1]
        candidates = {other for shingle in prefix for other in index[shingle]}
        for other in candidates:
            if len(sets[other]) >= threshold * size and pictures[other] == pictures[place]:
                shared = len(sets[place] & sets[other])
                if shared >= threshold * (size + len(sets[other]) - shared):
                    yield min(place, other), max(place, other)
        for shingle in prefix:
            index[shingle].append(place)


def link_clusters(count: int, pairs: Iterator[tuple[int, int]]) -> list[int]:
    """For each position, the smallest position that it is linked to (union-find)."""
    parent = list(range(count))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(place) for place in range(count)]


def _shingles(text: str) -> frozenset[str]:
    words = _WORD.findall(text.lower())
    pairs = (f"{one} {two}" for one, two in itertools.pairwise(words))
    return frozenset([*words, *pairs])


def _without_frame(sets: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    if len(sets) < _FRAME_ROWS:
        return list(sets)
    counts = Counter(shingle for some in sets for shingle in some)
    frame = {shingle for shingle, n in counts.items() if " " in shingle and n > len(sets) / 2}
    frame |= {word for pair in frame for word in pair.split()}
    return [some - frame or some for some in sets]
