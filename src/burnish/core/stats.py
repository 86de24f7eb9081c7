"""Intervals, paired tests and power: pure functions of plain sequences.

Everything is paired: two routes answer the same questions, and the scores of each question under
both are compared. Scores are in [0, 1]. Dependent questions share a number in `clusters` (see
`core.clusters`). `scipy` and `statsmodels` do the arithmetic where they can;
`docs/reference/statistics.md` justifies the methods.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, binom, binomtest, norm, t
from statsmodels.stats.proportion import proportion_confint

from burnish.core.clusters import cluster_sums, effective_number, is_clustered
from burnish.core.records import Interval
from burnish.core.resampling import blocks, interval_of, sign_flip, typical_size

#: Two perfect or two hopeless routes differ on no question; a discordance of one in twenty is
#: assumed.
_LEAST_DISCORDANCE = 0.05
#: Minimum standard deviation of the gaps.
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A test whether one route is better than another on the same questions.

    `p_value` is one-sided: the probability of such a gain if the first route were no better;
    `p_two_sided` that of such a difference in either direction if they were equal. `wins` and
    `losses` count the questions on which one is better.
    """

    gain: Interval
    p_value: float
    p_two_sided: float
    wins: int
    losses: int


def wilson_interval(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of 0/1 scores with the Wilson score interval (Wilson 1927)."""
    n, hits = len(scores), sum(scores)
    if not n:
        return Interval(math.nan, 0.0, 1.0, 0)
    low, high = proportion_confint(hits, n, 1 - confidence, method="wilson")
    value = hits / n
    return Interval(value, min(float(low), value), max(float(high), value), n)


def mean_interval(
    scores: Sequence[float],
    clusters: Sequence[int] = (),
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of any scores with its interval: Wilson's if all are 0 or 1, else the
    bootstrap (Efron & Tibshirani 1993; Efron 1987) over the scores and two more, a 0 and a 1.

    If some questions share a cluster, whole clusters are drawn, and the mean is the ratio of their
    sums (`interval_of`). The two added scores keep it honest where nearly all scores are equal, as
    Agresti & Coull (1998) do for proportions: of 10 answers with F1 near 1, the plain bootstrap and
    BCa cover 42 to 78 %.
    """
    if is_binary(scores) and not is_clustered(clusters):
        return wilson_interval(scores, confidence)
    return interval_of(cluster_sums(scores, clusters), (0.0, 1.0), confidence, seed)[0]


def mcnemar(wins: int, losses: int) -> tuple[float, float]:
    """Return the one-sided and two-sided p-value of the exact McNemar test (McNemar 1947).

    It is a binomial test on the questions that only one of the two routes answers correctly.
    """
    decided = wins + losses
    if not decided:
        return 1.0, 1.0
    one, two = (binomtest(wins, decided, 0.5, side).pvalue for side in ("greater", "two-sided"))
    return float(one), float(two)


def paired_test(
    ours: Sequence[float],
    theirs: Sequence[float],
    clusters: Sequence[int] = (),
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Compare scores of the same questions, ours minus theirs.

    0/1 scores: exact McNemar, with Newcombe's interval for paired proportions (1998, method 10).
    Other scores, and clustered questions: the paired bootstrap over whole clusters, with one full
    win and one full loss added; the p-value is the larger one of the bootstrap's and that of
    `sign_flip`. Signs alone would attribute to chance what a rare disaster, unseen in a small
    sample, could reverse. Raises ValueError if the lengths differ.
    """
    gaps = np.array([one - other for one, other in zip(ours, theirs, strict=True)])
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    if is_binary(ours) and is_binary(theirs) and not is_clustered(clusters):
        gain = _newcombe(ours, theirs, confidence)
        return PairedTest(gain, *mcnemar(wins, losses), wins, losses)
    drawn = cluster_sums(gaps, clusters)
    gain, resampled = interval_of(drawn, (-1.0, 1.0), confidence, seed)
    one, two = sign_flip(drawn[0], seed)
    forward, backward = resampled.p_value, resampled.turned.p_value
    either = min(2 * min(forward, backward), 1.0)
    return PairedTest(gain, max(one, forward), max(two, either), wins, losses)


def repeated_gain(
    trainings: Sequence[Sequence[float]],
    theirs: Sequence[float],
    clusters: Sequence[int] = (),
    confidence: float = 0.95,
) -> Interval:
    """Return the gain of a training over questions and seeds: `trainings` are the scores of models
    that differ only by their seed, on the same questions as theirs.

    The interval of the mean score over the trainings (`paired_test`) and that of the trainings'
    gains (Student's t) are combined as independent parts (MOVER, Zou & Donner 2008, Stat. Med.
    27:1693). Raises ValueError for fewer than two trainings.
    """
    count = len(trainings)
    if count < 2:
        raise ValueError("a spread needs two trainings")
    table = np.asarray(trainings, dtype=float)
    over_questions = paired_test(list(table.mean(axis=0)), theirs, clusters, confidence).gain
    error = float(table.mean(axis=1).std(ddof=1)) / math.sqrt(count)
    reach = float(t.ppf((1 + confidence) / 2, count - 1)) * error
    low = over_questions.value - math.hypot(over_questions.value - over_questions.low, reach)
    high = over_questions.value + math.hypot(over_questions.high - over_questions.value, reach)
    return Interval(over_questions.value, max(low, -1.0), min(high, 1.0), over_questions.n)


def loss_bound(
    before: Sequence[float],
    after: Sequence[float],
    confidence: float = 0.95,
    clusters: Sequence[int] = (),
) -> float:
    """Return the upper confidence bound (one-sided) of the loss of the mean from `before` to
    `after`.

    0/1 scores: the score interval for paired proportions (Tango 1998, Stat. Med. 17:891); if no
    question was won, also the exact bound of the share that was lost (Clopper & Pearson 1934),
    since Tango's nominal 5 % is 6.8 % there. Others, and clustered questions: the paired bootstrap
    of `paired_test`.
    """
    if is_clustered(clusters) or not (is_binary(before) and is_binary(after)):
        return paired_test(before, after, clusters, 2 * confidence - 1).gain.high
    n = len(before)
    lost = sum(1 for one, other in zip(before, after, strict=True) if one > other)
    won = sum(1 for one, other in zip(before, after, strict=True) if one < other)
    z = float(norm.ppf(confidence))

    def too_large(loss: float) -> float:
        a, b = 2 * n, (2 * n - lost + won) * loss - lost - won
        c = -won * loss * (1 - loss)
        rare = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        spread = math.sqrt(max(n * (2 * rare + loss * (1 - loss)), 0.0))
        return lost - won - n * loss + z * spread

    # Where nothing changed, a loss of exactly 0 is a root too, but not the wanted one.
    least = (lost - won) / n + 1e-9
    if least >= 1:
        return 1.0
    exact = -1.0 if won else float(beta.ppf(confidence, lost + 1, n - lost))
    return max(float(brentq(too_large, least, 1.0)), exact)


def quantile_interval(values: Sequence[float], share: float, confidence: float = 0.95) -> Interval:
    """Return a quantile with the interval of order statistics, which assumes no distribution
    (Conover 1999, ch. 3.2); an end that so few values can't bound is infinite."""
    n, tail = len(values), (1 - confidence) / 2
    ordered = [-math.inf, *sorted(values), math.inf]
    below = int(binom.ppf(tail, n, share)) if n else 0
    above = int(binom.ppf(1 - tail, n, share)) + 1 if n else 1
    return Interval(quantile(values, share), ordered[below], ordered[min(above, n + 1)], n)


def quantile_gap(
    ours: Sequence[float],
    theirs: Sequence[float],
    share: float,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the difference of a quantile, ours minus theirs, on the same questions, with the
    percentile interval of the paired bootstrap. Raises ValueError if the lengths differ."""
    if len(ours) != len(theirs):
        raise ValueError("a gap of quantiles needs as many of ours as of theirs")
    n = len(ours)
    one, other = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if not n:
        return Interval(math.nan, -math.inf, math.inf, 0)
    random = np.random.default_rng(seed)
    gaps = []
    for count in blocks(n):
        indices = random.integers(0, n, (count, n))
        gaps.append(np.quantile(one[indices], share, 1) - np.quantile(other[indices], share, 1))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(np.concatenate(gaps), tails)
    return Interval(quantile(ours, share) - quantile(theirs, share), float(low), float(high), n)


def ratio_of_means(
    ours: Sequence[float],
    theirs: Sequence[float],
    clusters: Sequence[int] = (),
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of ours over the mean of theirs, on the same questions, with the percentile
    interval of the paired bootstrap, over clusters if some questions share one.

    NaN if theirs are all 0. Raises ValueError if the lengths differ.
    """
    if len(ours) != len(theirs):
        raise ValueError("a ratio needs as many of ours as of theirs")
    one, other = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    one, other = (cluster_sums(side, clusters)[0] for side in (one, other))
    n = len(one)
    if not n or not other.sum():
        return Interval(math.nan, math.nan, math.nan, n)
    random = np.random.default_rng(seed)
    ratios = []
    for count in blocks(n):
        indices = random.integers(0, n, (count, n))
        top, bottom = one[indices].sum(axis=1), other[indices].sum(axis=1)
        ratios.append(top[bottom > 0] / bottom[bottom > 0])
    resampled = np.concatenate(ratios)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(one.sum() / other.sum()), float(low), float(high), len(ours))


def holm_adjust(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p-values adjusted for the number of tests (Holm 1979)."""
    # `statsmodels` has it too, with a full garbage collection in every call: 0.1 s.
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = min(max(least, (len(p_values) - rank) * p_values[name]), 1.0)
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def rows_needed(
    ours: Sequence[float],
    theirs: Sequence[float],
    gain: float,
    alpha: float = 0.05,
    power: float = 0.8,
    clusters: Sequence[int] = (),
) -> int:
    """Return the number of questions with which a one-sided paired test detects a true gain of
    `gain` with `power`.

    From the observed spread of the differences (for 0/1 scores: from the discordance, Connor 1987,
    with the continuity correction of Fleiss, since the exact test moves in steps); for clusters of
    the observed sizes, if some questions share one. Raises ValueError if `gain` isn't positive.
    """
    if gain <= 0:
        raise ValueError("a gain of 0 can't be detected with any number of rows")
    if _is_exact(ours, theirs, clusters):
        sought = float(norm.ppf(1 - alpha) + norm.ppf(power)) * _discordance(ours, theirs)
        # The root of `gain * n - sought * sqrt(n) - 1 = 0`: a question that turns moves the sum by
        # 2, of which the correction takes half.
        return math.ceil(((sought + math.sqrt(sought**2 + 4 * gain)) / (2 * gain)) ** 2)
    varies = _Variation.of(ours, theirs, clusters)
    upper = 2.0
    while varies.missing(gain, upper, alpha, power) > 0:
        upper *= 2
    needed = float(brentq(lambda n: varies.missing(gain, n, alpha, power), 1e-9, upper))
    return math.ceil(needed)


def minimum_detectable_gain(
    ours: Sequence[float],
    theirs: Sequence[float],
    alpha: float = 0.05,
    power: float = 0.8,
    clusters: Sequence[int] = (),
) -> float:
    """Return the smallest true gain that a one-sided paired test of this size detects with `power`.

    The inverse of `rows_needed`; infinite below two questions, and if the largest of few clusters
    dominates so much that no gain would be detected.
    """
    n = len(ours)
    if n < 2:
        return math.inf
    if _is_exact(ours, theirs, clusters):
        sought = float(norm.ppf(1 - alpha) + norm.ppf(power)) * _discordance(ours, theirs)
        return sought / math.sqrt(n) + 1 / n
    varies = _Variation.of(ours, theirs, clusters)
    if varies.missing(1.0, n, alpha, power) > 0:
        return math.inf
    return float(brentq(lambda gain: varies.missing(gain, n, alpha, power), 0.0, 1.0))


def is_binary(scores: Sequence[float]) -> bool:
    """Return whether all scores are 0 or 1."""
    return all(score in (0, 1) for score in scores)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile `share` of the values (linear between two); 0 for none."""
    return float(np.quantile(values, share)) if len(values) else 0.0


def _newcombe(ours: Sequence[float], theirs: Sequence[float], confidence: float) -> Interval:
    """Return the difference of paired proportions with its interval (Newcombe 1998, Stat. Med.
    17:2635, method 10)."""
    n = len(ours)
    if not n:
        return Interval(math.nan, -1.0, 1.0, 0)
    one, other = wilson_interval(ours, confidence), wilson_interval(theirs, confidence)
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
    return Interval(gap, max(min(low, gap), -1.0), min(max(high, gap), 1.0), n)


def _is_exact(ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[int]) -> bool:
    """Return whether `paired_test` is McNemar's."""
    return is_binary(ours) and is_binary(theirs) and not is_clustered(clusters)


def _discordance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the standard deviation of the differences of 0/1 scores, under the null hypothesis."""
    differ = [one != other for one, other in zip(ours, theirs, strict=True)]
    return math.sqrt(max(sum(differ) / max(len(differ), 1), _LEAST_DISCORDANCE))


@dataclass(frozen=True, slots=True)
class _Variation:
    """The variation of the sum of the gaps: its variance per question, and the typical size of a
    cluster, by which signs and the two added draws weigh."""

    variance: float
    size: float

    @classmethod
    def of(
        cls, ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[int]
    ) -> "_Variation":
        """Compute it from the residuals of the ratio of sums (Cochran 1977, ch. 2.11), corrected by
        the effective number, as a dominant cluster pulls the mean towards itself."""
        gaps = [one - other for one, other in zip(ours, theirs, strict=True)]
        sums, sizes = cluster_sums(gaps, clusters)
        total, size = float(sizes.sum()), typical_size(sizes)
        residuals = sums - sums.sum() / total * sizes
        count = effective_number(clusters) if is_clustered(clusters) else total
        corrected = float((residuals**2).sum()) / total * count / max(count - 1, 1e-9)
        return cls(min(max(corrected, _LEAST_SPREAD**2), size), size)

    def missing(self, gain: float, n: float, alpha: float, power: float) -> float:
        """Return by how much the sum of n gaps, of a true mean `gain`, falls short of what is
        detected with `power`; negative if it doesn't."""
        sampling = n * self.variance
        # The signs count the gain itself as spread, the bootstrap the two added draws.
        added = self.size * max(n * gain**2, 2 * self.size)
        seen = norm.ppf(1 - alpha) * math.sqrt(sampling + added) + norm.ppf(power) * math.sqrt(
            sampling
        )
        return float(seen - gain * n)
