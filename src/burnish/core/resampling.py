"""Resampling of what was drawn by chance: the bootstrap, random signs, random halves.

A draw is a question, or a cluster of questions that hang together (`core.clusters`): it has the sum
of its values and its size, and the mean is always the ratio of the two totals. Clusters may have
any sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from burnish.core.records import Interval

DRAWS = 10_000
#: Numbers drawn at once: bounds the memory of a bootstrap (doubles).
_BLOCK = 4_000_000


def blocks(width: int) -> list[int]:
    """DRAWS split into blocks whose numbers fit the memory; `width` numbers are drawn for one."""
    size = max(min(DRAWS, _BLOCK // max(width, 1)), 1)
    return [min(size, DRAWS - begin) for begin in range(0, DRAWS, size)]


def typical_size(sizes: np.ndarray) -> float:
    """The size of the cluster that a question drawn at random is in, Σn²/Σn; 0 of nothing."""
    total = float(sizes.sum())
    return float((sizes.astype(float) ** 2).sum()) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """(DRAWS,) means of resamples, and by how much the draws are skewed (the acceleration of BCa,
    Efron 1987, JASA 82:171)."""

    means: np.ndarray
    acceleration: float

    def quantile(self, tail: float) -> float:
        """The end of a one-sided interval that leaves out `tail`: the percentile, or the one that
        is corrected for skewness if it lies further out."""
        z = float(norm.ppf(tail)) + self.acceleration
        bends = 1 - self.acceleration * z
        corrected = (
            float(norm.cdf(self.acceleration + z / bends)) if bends > 0 else float(tail > 0.5)
        )
        further = min if tail < 0.5 else max
        return float(np.quantile(self.means, further(tail, corrected)))

    @property
    def p_value(self) -> float:
        """The largest tail whose lower end isn't above 0."""
        share = (int((self.means <= 0).sum()) + 1) / (len(self.means) + 1)
        z = float(norm.ppf(share)) - self.acceleration
        bends = 1 + self.acceleration * z
        corrected = float(norm.cdf(z / bends - self.acceleration)) if bends > 0 else 1.0
        return max(share, corrected)

    @property
    def turned(self) -> "Bootstrap":
        """That of the values with the other sign."""
        return Bootstrap(-self.means, -self.acceleration)


def bootstrap(
    sums: np.ndarray, sizes: np.ndarray, ends: tuple[float, float], seed: int
) -> Bootstrap:
    """Means of resamples: as many draws, with replacement, as there are (Efron & Tibshirani 1993),
    and two more at the `ends` of the scale, of a typical size.

    The two keep an interval honest where hardly anything differs: what a sample of n doesn't show
    may still be as frequent as 3/n, and as large as the scale.
    """
    typical = typical_size(sizes)
    tops = np.concatenate([sums, np.asarray(ends) * typical]).astype(float)
    belows = np.concatenate([sizes, [typical, typical]]).astype(float)
    alike = bool((belows == belows[0]).all())
    random, means = np.random.default_rng(seed), []
    for count in blocks(len(tops)):
        places = random.integers(0, len(tops), (count, len(tops)))
        below = belows[0] * len(tops) if alike else belows[places].sum(axis=1)
        means.append(tops[places].sum(axis=1) / below)
    residuals = tops - tops.sum() / belows.sum() * belows
    spread = float((residuals**2).sum()) ** 1.5
    skewed = float((residuals**3).sum()) / (6 * spread) if spread else 0.0
    return Bootstrap(np.concatenate(means), skewed)


def half_means(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """(DRAWS,) means of random subsets, each draw in or out by a coin; not a number if all are out.

    Their quantiles are an exact interval of the mean where the deviations of the clusters are
    symmetric, whatever their sizes (typical values, Hartigan 1969, JASA 64:1303): they hold the
    values that `sign_flip` doesn't reject.
    """
    random, means = np.random.default_rng(seed), []
    for count in blocks(len(sums)):
        chosen = random.integers(0, 2, (count, len(sums)), dtype=np.int8).astype(float)
        below = chosen @ sizes
        with np.errstate(invalid="ignore"):
            means.append((chosen @ sums) / below)
    return np.concatenate(means)


def interval_of(
    drawn: tuple[np.ndarray, np.ndarray],
    ends: tuple[float, float],
    confidence: float,
    seed: int,
) -> tuple[Interval, Bootstrap]:
    """The interval of a mean from sums and sizes, and the bootstrap behind it.

    Where draws are larger than one question it holds the exact interval of `half_means` too, which
    a few large clusters make wide. Raises ValueError if nothing was drawn.
    """
    sums, sizes = drawn
    total = int(sizes.sum())
    if not total:
        raise ValueError("nothing was drawn")
    mean = float(sums.sum() / total)
    found = bootstrap(sums, sizes, ends, seed)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = map(found.quantile, tails)
    if len(sizes) < total:
        halves = half_means(sums, sizes, seed)
        # A mean of nothing may be anything on the scale.
        least, most = (
            float(np.quantile(np.where(np.isnan(halves), end, halves), tail))
            for end, tail in zip(ends, tails, strict=True)
        )
        low, high = min(low, least), max(high, most)
    low, high = max(min(low, mean), ends[0]), min(max(high, mean), ends[1])
    return Interval(mean, low, high, total), found


def sign_flip(sums: np.ndarray, seed: int) -> tuple[float, float]:
    """P-values (one-sided, two-sided) under random signs (Fisher 1935): if the routes were equal,
    the sum of any cluster might as well be turned, whatever its size. The observed signs count as
    one draw, so that the test is exact (Phipson & Smyth 2010)."""
    decided = sums[sums != 0]
    if not len(decided):
        return 1.0, 1.0
    observed, slack = decided.sum(), 1e-9
    larger = further = 0
    for signs in _signs(len(decided), seed):
        turned = signs @ decided
        larger += int((turned >= observed - slack).sum())
        further += int((np.abs(turned) >= abs(observed) - slack).sum())
    return (larger + 1) / (DRAWS + 1), (further + 1) / (DRAWS + 1)


def _signs(width: int, seed: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    for count in blocks(width):
        yield random.integers(0, 2, (count, width), dtype=np.int8) * 2 - 1
