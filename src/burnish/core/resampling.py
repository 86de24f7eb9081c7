"""Resampling: the bootstrap, random signs, random halves.

A draw is a question, or a cluster of dependent questions (`core.clusters`), with the sum of its
values and its size; the mean is always the ratio of the two totals. Clusters may have any sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from burnish.core.records import Interval

DRAWS = 10_000
#: Random numbers per block (doubles): bounds the memory of a bootstrap.
_BLOCK = 4_000_000


def blocks(width: int) -> list[int]:
    """Split DRAWS into blocks that fit into memory; `width` numbers are drawn for each draw."""
    size = max(min(DRAWS, _BLOCK // max(width, 1)), 1)
    return [min(size, DRAWS - begin) for begin in range(0, DRAWS, size)]


def typical_size(sizes: np.ndarray) -> float:
    """Return the expected cluster size of a random question, Σn²/Σn; 0 for none."""
    total = float(sizes.sum())
    return float((sizes.astype(float) ** 2).sum()) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The (DRAWS,) means of resamples, and the skewness of the draws (the acceleration of BCa,
    Efron 1987, JASA 82:171)."""

    means: np.ndarray
    acceleration: float

    def quantile(self, tail: float) -> float:
        """Return the end of a one-sided interval that leaves out `tail`: the percentile, or the
        skewness-corrected one if it lies further out."""
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
        """The bootstrap of the negated values."""
        return Bootstrap(-self.means, -self.acceleration)


def bootstrap(
    sums: np.ndarray, sizes: np.ndarray, ends: tuple[float, float], seed: int
) -> Bootstrap:
    """Return means of resamples: as many draws, with replacement, as there are (Efron & Tibshirani
    1993), and two more at the `ends` of the scale, of a typical size.

    The two keep an interval honest where hardly anything differs: what a sample of n doesn't show
    may still be as frequent as 3/n, and as large as the scale.
    """
    typical = typical_size(sizes)
    numerators = np.concatenate([sums, np.asarray(ends) * typical]).astype(float)
    denominators = np.concatenate([sizes, [typical, typical]]).astype(float)
    equal_sizes = bool((denominators == denominators[0]).all())
    random, means = np.random.default_rng(seed), []
    for count in blocks(len(numerators)):
        indices = random.integers(0, len(numerators), (count, len(numerators)))
        denominator = (
            denominators[0] * len(numerators) if equal_sizes else denominators[indices].sum(axis=1)
        )
        means.append(numerators[indices].sum(axis=1) / denominator)
    residuals = numerators - numerators.sum() / denominators.sum() * denominators
    spread = float((residuals**2).sum()) ** 1.5
    skewed = float((residuals**3).sum()) / (6 * spread) if spread else 0.0
    return Bootstrap(np.concatenate(means), skewed)


def half_means(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """Return (DRAWS,) means of random subsets, each draw included by a coin flip; NaN if all are
    out.

    Their quantiles are an exact interval of the mean if the clusters' deviations are symmetric,
    whatever their sizes (typical values, Hartigan 1969, JASA 64:1303): they contain the values that
    `sign_flip` doesn't reject.
    """
    random, means = np.random.default_rng(seed), []
    for count in blocks(len(sums)):
        chosen = random.integers(0, 2, (count, len(sums)), dtype=np.int8).astype(float)
        denominator = chosen @ sizes
        with np.errstate(invalid="ignore"):
            means.append((chosen @ sums) / denominator)
    return np.concatenate(means)


def interval_of(
    drawn: tuple[np.ndarray, np.ndarray],
    ends: tuple[float, float],
    confidence: float,
    seed: int,
) -> tuple[Interval, Bootstrap]:
    """Return the interval of a mean from sums and sizes, and the bootstrap behind it.

    If draws are larger than one question, it also covers the exact interval of `half_means`, which
    a few large clusters make wide. Raises ValueError if nothing was drawn.
    """
    sums, sizes = drawn
    total = int(sizes.sum())
    if not total:
        raise ValueError("nothing was drawn")
    mean = float(sums.sum() / total)
    resampled = bootstrap(sums, sizes, ends, seed)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = map(resampled.quantile, tails)
    if len(sizes) < total:
        halves = half_means(sums, sizes, seed)
        # The mean of an empty subset may be anything on the scale.
        half_low, half_high = (
            float(np.quantile(np.where(np.isnan(halves), end, halves), tail))
            for end, tail in zip(ends, tails, strict=True)
        )
        low, high = min(low, half_low), max(high, half_high)
    low, high = max(min(low, mean), ends[0]), min(max(high, mean), ends[1])
    return Interval(mean, low, high, total), resampled


def sign_flip(sums: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the p-values (one-sided, two-sided) under random signs (Fisher 1935): if the routes
    were equal, the sum of any cluster could have either sign, whatever its size. The observed signs
    count as one draw, so that the test is exact (Phipson & Smyth 2010)."""
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
