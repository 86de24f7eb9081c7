"""Labelled spans of a text, and their form as an answer."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Characters `start` to `end` (excluded, from 0) of a text, and their label."""

    start: int
    end: int
    label: str


def format_spans(text: str, spans: Iterable[Span]) -> str:
    """Format spans as a language model writes them: texts and labels in order, no offsets."""
    return _spans_json({"text": text[span.start : span.end], "label": span.label} for span in spans)


def format_located_spans(text: str, spans: Iterable[Span]) -> str:
    """Format spans with their character offsets."""
    return _spans_json(
        {
            "text": text[span.start : span.end],
            "label": span.label,
            "start": span.start,
            "end": span.end,
        }
        for span in spans
    )


def spans_from_tags(
    tags: Sequence[str], word_bounds: Sequence[tuple[int, int]]
) -> tuple[Span, ...]:
    """Return the spans that BIO tags mean (Ramshaw & Marcus 1995; as seqeval reads IOB2 by
    default).

    `word_bounds` has start and end of each tagged word. An I- tag that continues no span of its
    label begins one.
    """
    spans: list[Span] = []
    previous = "O"
    for tag, (start, end) in zip(tags, word_bounds, strict=True):
        kind, _, label = tag.partition("-")
        if kind == "I" and previous.partition("-")[2] == label and spans:
            spans[-1] = Span(spans[-1].start, end, label)
        elif kind != "O":
            spans.append(Span(start, end, label))
        previous = tag
    return tuple(spans)


def _spans_json(spans: Iterable[dict[str, object]]) -> str:
    return json.dumps(list(spans), ensure_ascii=False)
