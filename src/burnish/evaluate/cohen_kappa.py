"""How far two graders agree beyond chance: Cohen's kappa (1960), with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burnish.core.records import Interval
from burnish.core.resampling import DRAWS


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two graders on the same answers.

    `table` counts answers: a line for each grade of the first, a column for each of the second, in
    the order of `grades`. `share` is how often they agree.
    """

    grades: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    kappa: Interval
    share: float


def measure_agreement(
    first: Sequence[str],
    second: Sequence[str],
    grades: Sequence[str],
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Kappa of grades without order, with the percentile bootstrap (Efron & Tibshirani 1993) over
    the answers and one more on which they disagree.

    The one more keeps it honest where they nearly always agree: of 30 answers without a
    disagreement, the plain bootstrap and the asymptotic interval say "surely 1"
    (docs/benchmarks/statistics.md).
    Kappa is not a number where both give all answers the same grade. Raises ValueError if the
    lengths differ.
    """
    places = {grade: place for place, grade in enumerate(grades)}
    size, n = len(places), len(first)
    table = np.zeros((size, size))
    for one, other in zip(first, second, strict=True):
        table[places[one], places[other]] += 1
    value = float(_kappas(table[None])[0])
    apart = 1 - np.eye(size)
    shares = (table + apart / apart.sum()).ravel() / (n + 1)
    drawn = np.random.default_rng(seed).multinomial(n + 1, shares, DRAWS)
    kappas = _kappas(drawn.reshape(DRAWS, size, size))
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(kappas[np.isfinite(kappas)], ends)
    return Agreement(
        grades=tuple(grades),
        table=tuple(tuple(int(count) for count in line) for line in table),
        kappa=Interval(value, min(float(low), value), max(float(high), value), n),
        share=float(table.trace()) / n,
    )


def _kappas(tables: np.ndarray) -> np.ndarray:
    """Kappa of each table (tables, grades, grades); not a number where chance explains all."""
    n = tables.sum(axis=(1, 2))
    agreed = tables.trace(axis1=1, axis2=2) / n
    by_chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        kappas: np.ndarray = (agreed - by_chance) / (1 - by_chance)
    return kappas
