"""Scores of labelled spans: a span counts if its position and its label are exactly right.

The score of one row is the F1 of its spans, 1 if there are none in either. The F1 over all spans of
a set, as CoNLL-2003 and seqeval define it, is shown beside it, with its interval over rows.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from burnish.core.json_text import BadJson, parse_json
from burnish.evaluate.text import unfenced

_DRAWS, _CONFIDENCE = 2_000, 0.95


def span_f1(expected: str, answer: str) -> float:
    """Return the F1 of one text's spans. Spans without positions are compared by text and label."""
    correct, predicted, expected_count = _count_spans(expected, answer)
    return (
        2 * correct / (predicted + expected_count)
        if predicted + expected_count
        else float(_parse_spans(answer) is not None)
    )


def entity_f1(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Return the F1 over all spans of the set, as CoNLL-2003 (Tjong Kim Sang & De Meulder 2003) and
    seqeval count: 2 correct / (predicted + expected)."""
    return float(_f1(_count_rows(expected, answers).sum(0)))


def entity_precision(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Return the share of predicted spans that are correct."""
    correct, predicted, _ = _count_rows(expected, answers).sum(0)
    return float(correct / max(predicted, 1))


def entity_recall(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Return the share of expected spans that were predicted."""
    correct, _, expected_count = _count_rows(expected, answers).sum(0)
    return float(correct / max(expected_count, 1))


def _interval_end(share: float) -> Callable[[Sequence[str], Sequence[str]], float]:
    """Return a quantile of the percentile bootstrap of `entity_f1` over rows.

    Two rows are added, one correct and one wrong span, as in core.stats.mean_interval.
    """

    def end(expected: Sequence[str], answers: Sequence[str]) -> float:
        table = np.concatenate([_count_rows(expected, answers), [[1, 1, 1], [0, 1, 1]]])
        draws = np.random.default_rng(0).multinomial(
            len(table), np.full(len(table), 1 / len(table)), size=_DRAWS
        )
        return float(np.quantile(_f1(draws @ table), share))

    return end


#: Metrics shown beside the rows' score.
SPAN_METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "entity_f1": entity_f1,
    "entity_f1_low": _interval_end((1 - _CONFIDENCE) / 2),
    "entity_f1_high": _interval_end((1 + _CONFIDENCE) / 2),
    "entity_precision": entity_precision,
    "entity_recall": entity_recall,
}


def _f1(counts: np.ndarray) -> np.ndarray:
    """Return the F1 of counts (..., 3): correct, predicted, expected; 1 where both are empty."""
    total = counts[..., 1] + counts[..., 2]
    return np.where(total > 0, 2 * counts[..., 0] / np.maximum(total, 1), 1.0)


def _count_rows(expected: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Return (rows, 3): correct, predicted and expected spans."""
    return np.array([_count_spans(*pair) for pair in zip(expected, answers, strict=True)])


def _count_spans(expected: str, answer: str) -> tuple[int, int, int]:
    expected_spans, predicted_spans = _parse_spans(expected) or [], _parse_spans(answer) or []
    located = all("start" in span and "end" in span for span in (*expected_spans, *predicted_spans))
    keys = ("start", "end", "label") if located else ("text", "label")
    predicted_counts, expected_counts = (
        Counter(json.dumps([span.get(key) for key in keys]) for span in spans)
        for spans in (predicted_spans, expected_spans)
    )
    return (
        sum((predicted_counts & expected_counts).values()),
        len(predicted_spans),
        len(expected_spans),
    )


def _parse_spans(text: str) -> list[dict[str, object]] | None:
    """Return the list of objects in an answer, bare or in a code fence; None if it isn't one."""
    try:
        value = parse_json(unfenced(text))
    except BadJson:
        return None
    is_list = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    return value if is_list else None
