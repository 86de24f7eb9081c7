"""Scores of one answer, in [0, 1], higher is better: the table METRICS.

A score belongs to one question, so that statistics can pair routes. Metrics that exist only over a
whole set (macro-F1, corpus BLEU) are in CORPUS_METRICS and are shown beside the score, never
tested.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sacrebleu

from burnish.core.scripts import spaced
from burnish.evaluate.fields import count_fields, parse_fields, shared_fields
from burnish.evaluate.span_metrics import SPAN_METRICS, span_f1
from burnish.evaluate.text import normalize, squad_normalize, tokens, unfenced, written_alike


def accuracy(expected: str, answer: str) -> float:
    """Return 1 if the label equals the expected one exactly."""
    return float(written_alike(answer) == written_alike(expected))


def exact_match(expected: str, answer: str) -> float:
    """Return 1 if the normal forms are equal; numbers keep their value (evaluate.text)."""
    return float(normalize(answer) == normalize(expected))


def token_f1(expected: str, answer: str) -> float:
    """Return the F1 of shared words, in the normal form of `exact_match`; characters of scripts
    without spaces count as words."""
    return _f1_of_words(tokens(normalize(expected)), tokens(normalize(answer)))


def squad_exact_match(expected: str, answer: str) -> float:
    """Return 1 if SQuAD's normal forms are equal, for comparison with published results: 3.5 equals
    35 there."""
    return float(squad_normalize(answer) == squad_normalize(expected))


def squad_f1(expected: str, answer: str) -> float:
    """Return SQuAD's F1 (Rajpurkar et al. 2016) of words in its own normal form."""
    return _f1_of_words(tokens(squad_normalize(expected)), tokens(squad_normalize(answer)))


def _f1_of_words(expected: Sequence[str], actual: Sequence[str]) -> float:
    if not expected or not actual:
        return float(expected == actual)
    shared = sum((Counter(expected) & Counter(actual)).values())
    return 2 * shared / (len(expected) + len(actual))


def field_f1(expected: str, answer: str) -> float:
    """Return the F1 over the fields of two JSON objects: a field counts if path and value are
    equal; in lists of objects, those of one object count together (evaluate.fields).

    A code fence around the object is ignored; an answer that isn't a JSON object scores 0.
    """
    reference, output = _object(expected), _object(answer)
    if reference is None or output is None:
        return 0.0
    if not reference or not output:
        return float(reference == output)
    try:
        shared = shared_fields(reference, output)
        return 2 * shared / (count_fields(reference) + count_fields(output))
    except RecursionError:
        return 0.0


def rouge_l(expected: str, answer: str) -> float:
    """Return the ROUGE-L F-measure, stemmed (Lin 2004); for ASCII text equal to `rouge-score`."""
    from burnish.evaluate.rouge import rouge_l as score

    return score(expected, answer)


def bleu(expected: str, answer: str) -> float:
    """Return smoothed sentence BLEU (sacrebleu; Post 2018), divided by 100; characters of scripts
    without spaces count as words."""
    score = sacrebleu.sentence_bleu(_comparable(answer), [_comparable(expected)]).score
    return float(min(score / 100, 1.0))


def chrf(expected: str, answer: str) -> float:
    """Return the character F-score (Popović 2015; sacrebleu), divided by 100."""
    reference, output = (unicodedata.normalize("NFC", text) for text in (expected, answer))
    return float(min(sacrebleu.sentence_chrf(output, [reference]).score / 100, 1.0))


def _comparable(text: str) -> str:
    return spaced(unicodedata.normalize("NFC", text))


METRICS: dict[str, Callable[[str, str], float]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "token_f1": token_f1,
    "squad_exact_match": squad_exact_match,
    "squad_f1": squad_f1,
    "field_f1": field_f1,
    "span_f1": span_f1,
    "rouge_l": rouge_l,
    "bleu": bleu,
    "chrf": chrf,
}


def macro_f1(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Return the mean F1 over the labels, unweighted."""
    from sklearn.metrics import f1_score  # slow to load, rarely needed

    expected, answers = ([*map(written_alike, texts)] for texts in (expected, answers))
    labels = sorted(set(expected))
    return float(f1_score(expected, answers, labels=labels, average="macro", zero_division=0))


def json_validity(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Return the share of answers that are JSON objects, bare or in a code fence."""
    return sum(_object(answer) is not None for answer in answers) / len(answers)


def corpus_bleu(expected: Sequence[str], answers: Sequence[str]) -> float:
    """Return BLEU over the whole set, divided by 100."""
    outputs, references = [*map(_comparable, answers)], [*map(_comparable, expected)]
    return float(sacrebleu.corpus_bleu(outputs, [references]).score / 100)


def _mean_over_rows(
    score: Callable[[str, str], float],
) -> Callable[[Sequence[str], Sequence[str]], float]:
    def over_all(expected: Sequence[str], answers: Sequence[str]) -> float:
        return sum(map(score, expected, answers)) / len(answers)

    return over_all


#: Task → metrics over the whole set, shown beside the deciding score.
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


def _object(text: str) -> Mapping[str, Any] | None:
    """Return the JSON object of an answer, bare or in a code fence; None if it isn't one."""
    try:
        value = parse_fields(unfenced(text))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
