"""Scores of one answer, in [0, 1], higher is better: the table METRICS.

A score belongs to one question, so that statistics can pair routes. What only exists over a whole
set (macro-F1, corpus BLEU) is in CORPUS and is shown beside the score, never tested.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import sacrebleu

from burnish.evaluate.span_metrics import CODE_FENCE, SPAN_METRICS, span_f1
from burnish.evaluate.text import UNSPACED, normalize


def accuracy(expected: str, answer: str) -> float:
    """1 if the label is the expected one, to the letter."""
    return float(answer.strip() == expected.strip())


def exact_match(expected: str, answer: str) -> float:
    """1 if the normal forms are equal."""
    return float(normalize(answer) == normalize(expected))


def token_f1(expected: str, answer: str) -> float:
    """F1 of the words that both have (SQuAD); signs of scripts without spaces count as words."""
    theirs, ours = (UNSPACED.sub(r" \1 ", normalize(text)).split() for text in (expected, answer))
    if not theirs or not ours:
        return float(theirs == ours)
    shared = sum((Counter(theirs) & Counter(ours)).values())
    return 2 * shared / (len(theirs) + len(ours))


def field_f1(expected: str, answer: str) -> float:
    """F1 over the fields of two JSON objects: a field counts if path and value are equal.

    A code fence round the object is forgiven; an answer that is no JSON object scores 0.
    """
    theirs, ours = _fields(expected), _fields(answer)
    if theirs is None or ours is None:
        return 0.0
    if not theirs and not ours:
        return 1.0
    shared = sum((theirs & ours).values())
    return 2 * shared / (sum(theirs.values()) + sum(ours.values()))


def rouge_l(expected: str, answer: str) -> float:
    """ROUGE-L F-measure, stemmed (Lin 2004); for ASCII text that of `rouge-score`."""
    from burnish.evaluate.rouge import rouge_l as score

    return score(expected, answer)


def bleu(expected: str, answer: str) -> float:
    """Sentence BLEU, smoothed (sacrebleu; Post 2018), divided by 100."""
    return min(sacrebleu.sentence_bleu(answer, [expected]).score / 100, 1.0)


def chrf(expected: str, answer: str) -> float:
    """Character F-score (Popović 2015; sacrebleu), divided by 100."""
    return min(sacrebleu.sentence_chrf(answer, [expected]).score / 100, 1.0)


METRICS: dict[str, Callable[[str, str], float]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "token_f1": token_f1,
    "field_f1": field_f1,
    "span_f1": span_f1,
    "rouge_l": rouge_l,
    "bleu": bleu,
    "chrf": chrf,
}


def macro_f1(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Mean F1 over the labels, each counting the same."""
    from sklearn.metrics import f1_score  # a second to load, and seldom asked

    labels = sorted(set(expected))
    return float(f1_score(expected, answers, labels=labels, average="macro", zero_division=0))


def json_validity(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Share of answers that are JSON objects, as they stand or in a code fence."""
    return sum(_fields(answer) is not None for answer in answers) / len(answers)


def corpus_bleu(expected: Sequence[str], answers: Sequence[str]) -> float:
    """BLEU over the whole set, divided by 100."""
    return float(sacrebleu.corpus_bleu(list(answers), [list(expected)]).score / 100)


def _mean_over_rows(
    score: Callable[[str, str], float],
) -> Callable[[Sequence[str], Sequence[str]], float]:
    def over_all(expected: Sequence[str], answers: Sequence[str]) -> float:
        return sum(map(score, expected, answers)) / len(answers)

    return over_all


#: Task → what is shown beside the deciding score, over the whole set.
CORPUS_METRICS: dict[str, dict[str, Callable[[Sequence[str], Sequence[str]], float]]] = {
    "classification": {"macro_f1": macro_f1},
    "extraction": {"exact_match": _mean_over_rows(exact_match), "json_validity": json_validity},
    "spans": SPAN_METRICS,
    "qa": {"exact_match": _mean_over_rows(exact_match), "rouge_l": _mean_over_rows(rouge_l)},
    "generation": {
        "token_f1": _mean_over_rows(token_f1),
        "corpus_bleu": corpus_bleu,
        "chrf": _mean_over_rows(chrf),
        "exact_match": _mean_over_rows(exact_match),
    },
}


def _fields(text: str) -> Counter[str] | None:
    """The leaves of a JSON object as `path=value`; None if it is no object."""
    fenced = CODE_FENCE.fullmatch(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return Counter(_leaves(value, "")) if isinstance(value, dict) else None


def _leaves(value: Any, path: str) -> list[str]:
    """Lists count as bags: their order doesn't matter. 1 and 1.0 are one number."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}")]
    if isinstance(value, list) and value:
        return [leaf for inner in value for leaf in _leaves(inner, f"{path}[]")]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [f"{path}={json.dumps(value, ensure_ascii=False)}"]
