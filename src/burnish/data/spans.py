"""Rows whose answer is the labelled spans of their text: by characters, or by tagged tokens."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

from burnish.core.errors import BadData
from burnish.core.records import Message, Row
from burnish.core.spans import Span, format_spans, spans_from_tags

_TAGS = ("tags", "ner_tags")


class BadRow(BadData):
    """A record that is not a usable row. `finding` is the finding's code."""

    def __init__(self, what: str, fix: str = "", code: str = "wrong_shape") -> None:
        super().__init__(what, fix)
        self.finding = code


def has_spans(keys: set[str]) -> bool:
    """Return whether records with these keys are a text and its spans."""
    return {"text", "spans"} <= keys


def has_tags(keys: set[str]) -> bool:
    """Return whether records with these keys are tokens and their tags."""
    return "tokens" in keys and any(key in keys for key in _TAGS)


def row_from_spans(record: Mapping[str, Any]) -> Row:
    """Convert `text`, and `spans` of `start`, `end` (characters, the end excluded) and `label`."""
    text, spans = record.get("text"), record.get("spans")
    if not isinstance(text, str) or not isinstance(spans, list):
        raise BadRow("there is no text `text` with a list `spans`", 'Write "spans": [] for none.')
    return _spans_row(text, [_parse_span(span, text) for span in spans])


def row_from_tags(record: Mapping[str, Any]) -> Row:
    """Convert CoNLL's columns: `tokens`, and their BIO tags as `tags` or `ner_tags`; the text is
    the tokens joined by spaces."""
    tokens = record.get("tokens")
    tags = next((record[key] for key in _TAGS if key in record), None)
    if not _are_texts(tokens) or not isinstance(tags, list) or len(tags) != len(tokens):
        raise BadRow("`tokens` and tags are not two lists of the same length", "Correct the row.")
    for tag in tags:
        kind, dash, label = tag.partition("-") if isinstance(tag, str) else ("", "", "")
        if not (tag == "O" or (kind in ("B", "I") and dash and label)):
            raise BadRow(
                f"the tag {tag!r} is not O, B-label or I-label",
                "Write the tags' names (B-PER), not their numbers.",
            )
    bounds, begin = [], 0
    for token in tokens:
        bounds.append((begin, begin + len(token)))
        begin += len(token) + 1
    return _spans_row(" ".join(tokens), list(spans_from_tags(tags, bounds)))


def _spans_row(text: str, spans: Sequence[Span]) -> Row:
    ordered = tuple(sorted(spans))
    for first, second in pairwise(ordered):
        if second.start < first.end:
            raise BadRow(
                f"the spans {text[first.start : first.end]!r} and "
                f"{text[second.start : second.end]!r} overlap",
                "Keep one of them: a word has one label.",
            )
    messages = (Message("user", text), Message("assistant", format_spans(text, ordered)))
    return Row(messages=messages, spans=ordered)


def _parse_span(value: Any, text: str) -> Span:
    fields = value if isinstance(value, Mapping) else {}
    start, end, label = (fields.get(key) for key in ("start", "end", "label"))
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
        raise BadRow(
            f"the span {value!r} lacks the numbers `start` and `end`, or a `label`",
            'Write {"start": 0, "end": 5, "label": "person"}.',
        )
    if not 0 <= start < end <= len(text):
        raise BadRow(
            f"the span {start} to {end} is outside of the text's {len(text)} characters",
            "Count characters from 0; `end` is the first one after the span.",
        )
    if fields.get("text", text[start:end]) != text[start:end]:
        raise BadRow(
            f"the span {start} to {end} is {text[start:end]!r}, and its `text` is "
            f"{fields['text']!r}",
            "Count characters, not bytes or words.",
        )
    return Span(start, end, label)


def _are_texts(tokens: Any) -> TypeGuard[list[str]]:
    """Return whether the value is a list of non-empty words."""
    return isinstance(tokens, list) and all(isinstance(token, str) and token for token in tokens)
