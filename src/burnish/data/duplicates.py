"""Exact and near duplicates of rows.

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

#: With at least this many rows, a word pair in over half of them belongs to the prompt's frame and
#: not to the row's content.
_FRAME_ROWS = 20
#: Maximum number of different continuations of one conversation's beginning.
_GREETING = 5


def content_hash(row: Row) -> str:
    """Return a hash of everything that training, a question or a grader sees of a row, independent
    of file and line: its content, and the keys that graders may name."""
    items = [{"item": repr(sorted(row.item.items()))}] if row.item else []
    return hash_json([*_spoken(row), *_offered(row), *items])


def said_hash(row: Row) -> str:
    """Return a hash of a row's content: its turns, which of them are trained, and its tools. Other
    columns don't matter."""
    return hash_json([*_spoken(row), *_offered(row)])


def earlier_hash(row: Row) -> str:
    """Return the former `content_hash`, without weights, tools and graders' keys, by which older
    frozen test splits are found."""
    return hash_json(_spoken(row))


def _spoken(row: Row) -> list[Any]:
    turns = [message.as_template() for message in row.messages]
    other = row.rejected.as_template() if row.rejected else None
    judged = [other, row.desirable] if row.is_preference else []
    marked = [[asdict(span) for span in row.spans]] if row.spans else []
    return [turns, row.text, row.label, *judged, *marked]


def _offered(row: Row) -> list[Any]:
    """Return weights and tools, where they aren't the defaults."""
    weights = [message.weight for message in row.messages]
    unusual = [{"weights": weights}] if any(weight != 1.0 for weight in weights) else []
    return [*unusual, *([{"tools": [dict(tool) for tool in row.tools]}] if row.tools else [])]


def asked_hash(row: Row) -> str:
    """Return a hash of a row's question: all turns before the answer, and the tools. Rows that
    share it are one question, however often it occurs in a test."""
    turns = [message.as_template() for message in row.prompt]
    return hash_json([turns, row.text, [dict(tool) for tool in row.tools]])


def question_text(row: Row) -> str:
    """Return the text by which rows are compared: the user messages, or the plain text."""
    if row.text is not None:
        return row.text
    return _user_text(row.prompt)


def _user_text(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages if message.role == "user")


def find_continued(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Yield pairs of indices: a row, and one whose conversation contains the same question at an
    earlier turn (servers log each turn as a row with all turns before it).

    A beginning with more than a few continuations is a greeting, and links no rows.
    """
    by_question: dict[str, list[int]] = defaultdict(list)
    continuations: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows):
        questions = [normalize_text(text) for text in _questions(row)]
        by_question[questions[-1]].append(index)
        for current, following in itertools.pairwise(questions):
            continuations[current][following].append(index)
    for text, followers in continuations.items():
        if len(followers) <= _GREETING:
            pairs = itertools.product(
                by_question[text], itertools.chain.from_iterable(followers.values())
            )
            yield from ((alone, continued) for alone, continued in pairs if alone != continued)


def _questions(row: Row) -> list[str]:
    """Return, for each answer of a row, the text of users and tools before it."""
    if row.text is not None:
        return [row.text]
    turns = enumerate(row.prompt)
    positions = [position for position, message in turns if message.role == "assistant"]
    return [_told(row.messages[:position]) for position in (*positions, len(row.prompt))]


def _told(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages if message.role in ("user", "tool"))


def normalize_text(text: str) -> str:
    """Reduce a text to lower-case words: equal results mean the same question."""
    return " ".join(_WORD.findall(text.lower()))


def find_near_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield all pairs of positions i < j whose similarity is at least `threshold`. Texts with
    different images are never similar."""
    images = [image_names_in(text) for text in texts]
    sets = _without_frame([_shingles(text) for text in texts])
    common = Counter(shingle for shingles in sets for shingle in shingles)
    ordered = [
        sorted(shingles, key=lambda shingle: (common[shingle], shingle)) for shingles in sets
    ]
    by_size = sorted(range(len(sets)), key=lambda position: len(sets[position]))
    index: dict[str, list[int]] = defaultdict(list)
    for position in by_size:
        size = len(sets[position])
        if not size:
            continue
        prefix = ordered[position][: size - math.ceil(threshold * size) + 1]
        candidates = {other for shingle in prefix for other in index[shingle]}
        for other in candidates:
            if len(sets[other]) >= threshold * size and images[other] == images[position]:
                shared = len(sets[position] & sets[other])
                if shared >= threshold * (size + len(sets[other]) - shared):
                    yield min(position, other), max(position, other)
        for shingle in prefix:
            index[shingle].append(position)


def link_clusters(count: int, pairs: Iterator[tuple[int, int]]) -> list[int]:
    """Return for each position the smallest position that it is linked to (union-find)."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [root(index) for index in range(count)]


def _shingles(text: str) -> frozenset[str]:
    words = _WORD.findall(text.lower())
    pairs = (f"{first} {second}" for first, second in itertools.pairwise(words))
    return frozenset([*words, *pairs])


def _without_frame(sets: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    if len(sets) < _FRAME_ROWS:
        return list(sets)
    counts = Counter(shingle for shingles in sets for shingle in shingles)
    frame = {shingle for shingle, n in counts.items() if " " in shingle and n > len(sets) / 2}
    frame |= {word for pair in frame for word in pair.split()}
    return [shingles - frame or shingles for shingles in sets]
