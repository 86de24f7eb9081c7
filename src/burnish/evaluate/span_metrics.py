"""Scores of labelled spans: a span counts if its place and its label are exactly right.

The score of one row is the F1 of its spans, 1 where there is none and none is named. The F1 over
all spans of a set, as CoNLL-2003 and seqeval define it, is shown beside it, with its interval over
rows.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from burnish.core.json_text import BadJson, parse_json
from burnish.evaluate.text import unfenced

_DRAWS, _CONFIDENCE = 2_000, 0.95


def span_f1(expected: str, answer: str) -> float:
    """F1 of one text's spans. Those that name no places are compared by words and label."""
    right, said, there = _count_spans(expected, answer)
    return 2 * right / (said + there) if said + there else float(_parse_spans(answer) is not None)


def entity_f1(expected: Sequence[str], answers: Sequence[str]) -> float:
    """F1 over all spans of the set, as CoNLL-2003 counts (Tjong Kim Sang & De Meulder 2003) and
    seqeval does: 2 right / (said + there)."""
    return float(_f1(_count_rows(expected, answers).sum(0)))


def entity_precision(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Share of the spans said that are right."""
    right, said, _ = _count_rows(expected, answers).sum(0)
    return float(right / max(said, 1))


def entity_recall(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Share of the spans there that were said rightly."""
    right, _, there = _count_rows(expected, answers).sum(0)
    return float(right / max(there, 1))


def _interval_end(share: float) -> Callable[[Sequence[str], Sequence[str]], float]:
    """An end of the percentile bootstrap's interval (95 %) of `entity_f1`: whole rows are drawn.

    Two rows are added, one right and one wrong span, as in core.stats.mean_interval.
    """

    def end(expected: Sequence[str], answers: Sequence[str]) -> float:
        table = np.concatenate([_count_rows(expected, answers), [[1, 1, 1], [0, 1, 1]]])
        draws = np.random.default_rng(0).multinomial(
            len(table), np.full(len(table), 1 / len(table)), size=_DRAWS
        )
        return float(np.quantile(_f1(draws @ table), share))

    return end


#: What is shown beside the rows' score.
SPAN_METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "entity_f1": entity_f1,
    "entity_f1_low": _interval_end((1 - _CONFIDENCE) / 2),
    "entity_f1_high": _interval_end((1 + _CONFIDENCE) / 2),
    "entity_precision": entity_precision,
    "entity_recall": entity_recall,
}


def _f1(counts: np.ndarray) -> np.ndarray:
    """Of counts (..., 3): right, said, there; 1 where there is nothing and nothing is said."""
    whole = counts[..., 1] + counts[..., 2]
    return np.where(whole > 0, 2 * counts[..., 0] / np.maximum(whole, 1), 1.0)


def _count_rows(expected: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """(rows, 3): spans that are right, said, and there."""
    return np.array([_count_spans(*both) for both in zip(expected, answers, strict=True)])


def _count_spans(expected: str, answer: str) -> tuple[int, int, int]:
    there, said = _parse_spans(expected) or [], _parse_spans(answer) or []
    placed = all("start" in one and "end" in one for one in (*there, *said))
    keys = ("start", "end", "label") if placed else ("text", "label")
    ours, theirs = (
        Counter(json.dumps([one.get(key) for key in keys]) for one in spans)
        for spans in (said, there)
    )
    return sum((ours & theirs).values()), len(said), len(there)


def _parse_spans(text: str) -> list[dict[str, object]] | None:
    """The list of objects that an answer is, as it stands or in a code fence; None if it isn't."""
    try:
        value = parse_json(unfenced(text))
    except BadJson:
        return None
    is_list = isinstance(value, list) and all(isinstance(one, dict) for one in value)
    return value if is_list else None
