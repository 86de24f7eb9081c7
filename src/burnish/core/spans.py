"""Labelled spans of a text, and how they are written as an answer."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Characters `start` to `end` (excluded, from 0) of a text, and what they are."""

    start: int
    end: int
    label: str


def format_spans(text: str, spans: Iterable[Span]) -> str:
    """Spans as a language model writes them: words and labels in order, no counted characters."""
    return _spans_json({"text": text[one.start : one.end], "label": one.label} for one in spans)


def format_located_spans(text: str, spans: Iterable[Span]) -> str:
    """The same with the places of their characters."""
    return _spans_json(
        {
            "text": text[one.start : one.end],
            "label": one.label,
            "start": one.start,
            "end": one.end,
        }
        for one in spans
    )


def spans_from_tags(
    tags: Sequence[str], word_bounds: Sequence[tuple[int, int]]
) -> tuple[Span, ...]:
    """The spans that BIO tags mean (Ramshaw & Marcus 1995; as seqeval reads IOB2 by default).

    `places` has start and end of each tagged word. An I- tag that goes on with no span of its label
    begins one.
    """
    found: list[Span] = []
    before = "O"
    for tag, (start, end) in zip(tags, word_bounds, strict=True):
        kind, _, label = tag.partition("-")
        if kind == "I" and before.partition("-")[2] == label and found:
            found[-1] = Span(found[-1].start, end, label)
        elif kind != "O":
            found.append(Span(start, end, label))
        before = tag
    return tuple(found)


def _spans_json(spans: Iterable[dict[str, object]]) -> str:
    return json.dumps(list(spans), ensure_ascii=False)
