"""Scores of labelled spans are those of the field's own tool."""

import json
import random

import pytest

from burnish.core.spans import Span, format_located_spans, format_spans, spans_from_tags
from burnish.evaluate.metrics import CORPUS_METRICS, METRICS
from burnish.evaluate.span_metrics import entity_f1, entity_precision, entity_recall, span_f1

TAGS = ("O", "B-a", "I-a", "B-b", "I-b")
TEXT = " ".join("w" for _ in range(12))
PLACES = [(2 * n, 2 * n + 1) for n in range(12)]


def answer(*spans):
    return format_located_spans(TEXT, [Span(*span) for span in spans])


def test_a_span_counts_if_place_and_label_are_right():
    gold = answer((0, 3, "a"), (8, 9, "b"))

    assert span_f1(gold, gold) == 1
    assert span_f1(gold, answer((0, 3, "b"), (8, 9, "b"))) == 0.5
    assert span_f1(gold, answer((0, 1, "a"))) == 0
    assert span_f1(gold, answer((0, 3, "a"))) == pytest.approx(2 / 3)
    assert span_f1("[]", "[]") == 1 and span_f1("[]", gold) == 0
    assert span_f1("[]", "no list") == 0 and span_f1(gold, "[1]") == 0
    assert span_f1(gold, f"```json\n{gold}\n```") == 1


def test_spans_without_places_are_compared_by_their_words():
    text = "Ada met Ada"
    spans = [Span(0, 3, "x"), Span(8, 11, "x")]
    gold = format_located_spans(text, spans)

    assert span_f1(gold, format_spans(text, spans)) == 1
    assert span_f1(gold, json.dumps([{"text": "Ada", "label": "x"}])) == pytest.approx(2 / 3)
    assert span_f1(gold, json.dumps([{"text": "Eve", "label": "x"}] * 2)) == 0


def test_f1_over_a_set_is_seqevals():
    from seqeval import metrics as seqeval

    draw = random.Random(5)
    gold = [[draw.choice(TAGS) for _ in PLACES] for _ in range(40)]
    said = [[tag if draw.random() < 0.7 else draw.choice(TAGS) for tag in row] for row in gold]
    ours = [
        [format_located_spans(TEXT, spans_from_tags(row, PLACES)) for row in rows]
        for rows in (gold, said)
    ]

    assert entity_f1(*ours) == pytest.approx(seqeval.f1_score(gold, said))
    assert entity_precision(*ours) == pytest.approx(seqeval.precision_score(gold, said))
    assert entity_recall(*ours) == pytest.approx(seqeval.recall_score(gold, said))


def test_the_interval_holds_the_value_and_narrows_with_the_rows():
    beside = CORPUS_METRICS["spans"]
    gold = [answer((0, 3, "a"), (8, 9, "b")), answer((4, 5, "a"))]
    said = [answer((0, 3, "a")), answer((4, 5, "a"))]
    widths = []
    for times in (4, 40):
        low, high = (
            beside[f"entity_f1_{end}"](gold * times, said * times) for end in ("low", "high")
        )
        assert low < entity_f1(gold * times, said * times) < high
        widths.append(high - low)

    assert widths[1] < widths[0] / 2
    assert METRICS["span_f1"] is span_f1
