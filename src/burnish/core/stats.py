"""Intervals, paired tests and power: pure functions of plain sequences.

Everything is paired: two routes answer the same questions, and what is compared is the score of one
question under both. `scipy` and `statsmodels` do the arithmetic where they can.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from burnish.core.records import Interval

DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Whether one route is better than another on the same questions.

    `p_value` is one-sided: the chance of a gain like this if the first were no better. `wins` and
    `losses` count the questions that decide (for scores that are not 0 or 1: any difference).
    """

    gain: Interval
    p_value: float
    wins: int
    losses: int


def proportion(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of 0/1 scores with the Wilson score interval (Wilson 1927)."""
    n, hits = len(scores), sum(scores)
    if not n:
        return Interval(math.nan, 0.0, 1.0, 0)
    low, high = proportion_confint(hits, n, 1 - confidence, method="wilson")
    return Interval(hits / n, float(low), float(high), n)


def mean_interval(scores: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean of any scores: Wilson if they are all 0 or 1, else the percentile bootstrap
    (Efron & Tibshirani 1993)."""
    if is_binary(scores) or len(scores) < 2:
        return proportion(scores, confidence)
    low, high = np.quantile(_bootstrap_means(scores, seed), _tails(confidence))
    return Interval(float(np.mean(scores)), float(low), float(high), len(scores))


def paired_test(
    ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> PairedTest:
    """Compare scores of the same questions, ours minus theirs.

    0/1 scores: exact McNemar, one-sided (a binomial test on the questions that differ; McNemar
    1947), with the Wilson-based interval of Newcombe for paired proportions (1998, method 10).
    Other scores: a sign-flip permutation test and the paired bootstrap. Raises ValueError if the
    lengths differ.
    """
    gaps = np.array([one - other for one, other in zip(ours, theirs, strict=True)])
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    if is_binary(ours) and is_binary(theirs):
        decided = wins + losses
        p_value = binomtest(wins, decided, 0.5, "greater").pvalue if decided else 1.0
        return PairedTest(_newcombe(ours, theirs, confidence), float(p_value), wins, losses)
    low, high = np.quantile(_bootstrap_means(gaps, seed), _tails(confidence))
    gain = Interval(float(gaps.mean()), float(low), float(high), len(gaps))
    return PairedTest(gain, _sign_flip(gaps, seed), wins, losses)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values adjusted for the number of tests (Holm 1979)."""
    if not p_values:
        return {}
    adjusted = multipletests(list(p_values.values()), method="holm")[1]
    return {name: float(value) for name, value in zip(p_values, adjusted, strict=True)}


def smallest_visible(
    ours: Sequence[float], theirs: Sequence[float], alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true gain that a one-sided paired test of this size sees with `power`.

    Normal approximation with the spread of the observed differences; for 0/1 scores the spread is
    never taken as less than that of one differing question in twenty.
    """
    n = len(ours)
    if n < 2:
        return math.inf
    return _factor(alpha, power) * _spread(ours, theirs) / math.sqrt(n)


def rows_needed(
    ours: Sequence[float],
    theirs: Sequence[float],
    gain: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Test rows with which a true gain of `gain` is seen with `power`, by the same approximation.

    Raises ValueError if `gain` isn't positive.
    """
    if gain <= 0:
        raise ValueError("a gain of 0 can't be seen with any number of rows")
    return math.ceil((_factor(alpha, power) * _spread(ours, theirs) / gain) ** 2)


def is_binary(scores: Sequence[float]) -> bool:
    """Whether all scores are 0 or 1."""
    return all(score in (0, 1) for score in scores)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values don't exceed (linear between two); 0 of nothing."""
    return float(np.quantile(values, share)) if len(values) else 0.0


def _newcombe(ours: Sequence[float], theirs: Sequence[float], confidence: float) -> Interval:
    """Difference of paired proportions (Newcombe 1998, Stat. Med. 17:2635, method 10)."""
    n = len(ours)
    if not n:
        return Interval(math.nan, -1.0, 1.0, 0)
    one, other = proportion(ours, confidence), proportion(theirs, confidence)
    both = sum(a * b for a, b in zip(ours, theirs, strict=True))
    neither = sum((1 - a) * (1 - b) for a, b in zip(ours, theirs, strict=True))
    first, second = sum(ours) - both, sum(theirs) - both
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    tilt = both * neither - first * second
    # Method 10 takes half a question off a positive correlation.
    tilt = max(tilt - n / 2, 0) if tilt > 0 else tilt
    phi = tilt / math.sqrt(product) if product else 0.0
    gap = one.value - other.value
    down = (one.value - one.low, other.high - other.value)
    up = (one.high - one.value, other.value - other.low)
    low = gap - math.sqrt(max(down[0] ** 2 - 2 * phi * down[0] * down[1] + down[1] ** 2, 0))
    high = gap + math.sqrt(max(up[0] ** 2 - 2 * phi * up[0] * up[1] + up[1] ** 2, 0))
    return Interval(gap, max(low, -1.0), min(high, 1.0), n)


def _sign_flip(gaps: np.ndarray, seed: int) -> float:
    """One-sided p-value under random signs: if neither is better, any gap might be turned."""
    decided = gaps[gaps != 0]
    if not len(decided):
        return 1.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (DRAWS, len(decided)))
    as_large = (signs @ decided >= decided.sum() - 1e-12).sum()
    return float((as_large + 1) / (DRAWS + 1))


def _bootstrap_means(scores: Sequence[float] | np.ndarray, seed: int) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    random = np.random.default_rng(seed)
    chunks = [random.choice(values, (1000, len(values))).mean(axis=1) for _ in range(DRAWS // 1000)]
    return np.concatenate(chunks)


def _spread(ours: Sequence[float], theirs: Sequence[float]) -> float:
    gaps = np.array([one - other for one, other in zip(ours, theirs, strict=True)])
    least = math.sqrt(0.05) if is_binary(ours) and is_binary(theirs) else 1e-3
    return max(float(gaps.std(ddof=1)) if len(gaps) > 1 else 0.0, least)


def _factor(alpha: float, power: float) -> float:
    return float(norm.ppf(1 - alpha) + norm.ppf(power))


def _tails(confidence: float) -> list[float]:
    return [(1 - confidence) / 2, (1 + confidence) / 2]
