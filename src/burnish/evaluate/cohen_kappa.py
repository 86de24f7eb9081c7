"""Cohen's kappa (1960): agreement of two graders beyond chance, with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burnish.core.records import Interval
from burnish.core.resampling import DRAWS


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two graders on the same answers.

    `table` counts answers: a row per grade of the first, a column per grade of the second, in the
    order of `grades`. `share` is the observed agreement.
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
    """Return kappa for unordered grades, with the percentile bootstrap (Efron & Tibshirani 1993)
    over the answers and one added disagreement.

    The added disagreement keeps the interval honest near perfect agreement: for 30 answers without
    a disagreement, the plain bootstrap and the asymptotic interval claim certainty
    (docs/benchmarks/statistics.md). Kappa is NaN if both give all answers the same grade. Raises
    ValueError if the lengths differ.
    """
    columns = {grade: column for column, grade in enumerate(grades)}
    size, n = len(columns), len(first)
    table = np.zeros((size, size))
    for first_grade, second_grade in zip(first, second, strict=True):
        table[columns[first_grade], columns[second_grade]] += 1
    value = float(_kappas(table[None])[0])
    off_diagonal = 1 - np.eye(size)
    shares = (table + off_diagonal / off_diagonal.sum()).ravel() / (n + 1)
    tables = np.random.default_rng(seed).multinomial(n + 1, shares, DRAWS)
    kappas = _kappas(tables.reshape(DRAWS, size, size))
    quantiles = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(kappas[np.isfinite(kappas)], quantiles)
    return Agreement(
        grades=tuple(grades),
        table=tuple(tuple(int(count) for count in line) for line in table),
        kappa=Interval(value, min(float(low), value), max(float(high), value), n),
        share=float(table.trace()) / n,
    )


def _kappas(tables: np.ndarray) -> np.ndarray:
    """Return kappa of each table (tables, grades, grades); NaN where chance agreement is 1."""
    n = tables.sum(axis=(1, 2))
    agreed = tables.trace(axis1=1, axis2=2) / n
    by_chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        kappas: np.ndarray = (agreed - by_chance) / (1 - by_chance)
    return kappas
