"""No gain planted, where a test is easily fooled: a few large groups, rare disasters, copies of a
question, rows collected until something ships, formats chosen on the questions of the gate.

    python benchmarks/hard_nulls.py                   1,000 draws a cell: some minutes
    python benchmarks/hard_nulls.py --draws 300       fewer

Each line says how often the wrong thing is said, beside the rate that is stated (5 %), and the same
as it was done before, or would be without the correction, where that can be computed.
"""

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm

from burnish.compare.verdict import decide
from burnish.core import resampling
from burnish.core.recipe.compare import Compare
from burnish.core.recipe.export import Export
from burnish.core.records import Interval, Prediction, Scores
from burnish.core.stats import loss_bound, wilson_interval
from burnish.export.search.successive_halving import SearchRules

STATED = 0.05
#: Sizes of groups: one customer with most rows, two with most, a few large ones.
UNEQUAL = {
    "1 of 100, 10 of 1": [100] + [1] * 10,
    "2 of 50, 20 of 1": [50, 50] + [1] * 20,
    "40, 20, 10, 5, 50 of 1": [40, 20, 10, 5] + [1] * 50,
}
#: Share of answers that are spoiled wholly, and questions.
SKEWED = ((0.06, 15), (0.06, 30), (0.06, 40), (0.06, 60), (0.06, 200), (0.02, 100), (0.2, 40))
COPIES = 10
FORMATS, FINALISTS = 13, 3


def scores_of(values: np.ndarray, owners: Sequence[int] | None = None) -> Scores:
    """A route with these scores; `owners` says whose each question is."""
    groups = ["" if owners is None else f"group {owner}" for owner in owners or values]
    said = [
        Prediction(str(n), "", "", "", float(value), 1, 1, 0.0, group=group)
        for n, (value, group) in enumerate(zip(values, groups, strict=True))
    ]
    # A verdict looks at the mean of a route, and makes the intervals of gains itself.
    return Scores("accuracy", said, Interval(float(np.mean(values)), 0.0, 1.0, len(said)))


def judged(base: Scores, tuned: Scores) -> tuple[bool, bool]:
    """Whether a fine-tune that is no better ships; and whether the 95 % interval of its gain misses
    the true one, which is none."""
    verdict = decide({"base": base, "fine_tuned": tuned}, Compare(least_gain=0.0))
    assert verdict.gain and math.isclose(verdict.confidence, 0.95)
    gain = verdict.gain.gain
    return verdict.decision == "ship", not gain.low <= 0 <= gain.high


def leaning(random: np.random.Generator, sizes: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """0/1 scores of two equal routes; four fifths of what a route makes of a question is its
    group's."""
    owners = np.repeat(np.arange(len(sizes)), sizes)
    marks = 2 * random.normal(size=(2, len(sizes)))[:, owners] + random.normal(
        size=(2, len(owners))
    )
    return (marks / math.sqrt(5) < norm.ppf(0.6)).astype(float), owners.tolist()


def unequal(random: np.random.Generator, sizes: Sequence[int]) -> tuple[bool, bool]:
    """Groups of these sizes."""
    (base, tuned), owners = leaning(random, sizes)
    return judged(scores_of(base, owners), scores_of(tuned, owners))


def skewed(random: np.random.Generator, rare: float, n: int) -> tuple[bool, bool]:
    """Graded scores: some answers are spoiled, the others a little better; no true gain."""
    gains = rare / (1 - rare) * random.uniform(0.5, 1.5, n)
    spoiled = random.random(n) < rare
    base = np.where(spoiled, 1.0, 0.5 - gains / 2)
    tuned = np.where(spoiled, 0.0, 0.5 + gains / 2)
    return judged(scores_of(base), scores_of(tuned))


def copied(random: np.random.Generator, is_known: bool) -> bool:
    """40 questions, each ten times in the test."""
    once = (random.random((2, 40)) < 0.6).astype(float)
    base, tuned = (side.repeat(COPIES) for side in once)
    owners = np.arange(40).repeat(COPIES).tolist() if is_known else None
    return judged(scores_of(base, owners), scores_of(tuned, owners))[0]


def followed(random: np.random.Generator, is_counted: bool) -> bool:
    """100 rows, and as many more as advised (500 at most) until it is decided; five looks."""
    answers, more = np.empty((2, 0)), 100
    for look in range(1, 6):
        hard = random.normal(size=more)
        marks = (hard + random.normal(size=(2, more))) / math.sqrt(2)
        answers = np.concatenate([answers, marks < norm.ppf(0.6)], axis=1).astype(float)
        routes = dict(zip(("base", "fine_tuned"), map(scores_of, answers), strict=True))
        verdict = decide(routes, Compare(least_gain=0.0), look=look if is_counted else 1)
        if verdict.decision != "not_enough_evidence":
            break
        more = min(verdict.more_rows, 500)
    return verdict.decision == "ship"


def searched(random: np.random.Generator, won: float, sharing: int) -> bool:
    """Formats that each lose as much as is allowed, of 1,000 answers: whether one of the three
    that look best passes the gate, whose error so many share."""
    settings, n = Export(), 1000
    sure = SearchRules(settings, [1.0] * n, 0.95).gate_confidence(sharing)
    drawn = random.multinomial(n, [settings.points + won, won, 1 - settings.points - 2 * won], 13)
    best = sorted(drawn.tolist(), key=lambda one: one[0] - one[1])[:FINALISTS]
    return any(_bound(lost, gained, n, sure) <= settings.points for lost, gained, _ in best)


_KNOWN: dict[tuple[int, int, int, float], float] = {}


def _bound(lost: int, gained: int, n: int, sure: float) -> float:
    key = (lost, gained, n, sure)
    if key not in _KNOWN:
        rest = [1.0] * (n - lost - gained)
        before, after = [1.0] * lost + [0.0] * gained, [0.0] * lost + [1.0] * gained
        _KNOWN[key] = loss_bound([*before, *rest], [*after, *rest], sure)
    return _KNOWN[key]


def spoilt(random: np.random.Generator, n: int) -> bool:
    """An export that spoils 3 % of answers passes one gate of n questions."""
    lost = int(random.binomial(n, 0.03))
    return _bound(lost, 0, n, Export().confidence) <= Export().points


def told(name: str, found: Sequence[bool], before: Sequence[bool] | None = None) -> None:
    """A line: the rate with its interval, whether it keeps the stated one, and the other rate."""
    rate, error = float(np.mean(found)), math.sqrt(STATED * (1 - STATED) / len(found))
    one = wilson_interval([float(value) for value in found])
    verdict = "kept" if rate <= STATED + 2 * error else "BROKEN"
    other = "" if before is None else f"{np.mean(before):.1%}"
    print(f"{name:<48} {rate:6.1%} ({one.low:.1%} to {one.high:.1%})  {verdict:<8} {other}")


def run(draws: int, seed: int) -> None:
    """Print every cell."""
    random = np.random.default_rng(seed)

    def drawn(make: Callable[[], bool]) -> list[bool]:
        return [make() for _ in range(draws)]

    print(f"{draws} draws a cell; {resampling.DRAWS} resamples; stated: {STATED:.0%}\n")
    print(f"{'wrong':<48} {'rate':<25}          without the correction")
    told(
        f"ships, 40 questions, {COPIES} copies of each",
        drawn(lambda: copied(random, True)),
        drawn(lambda: copied(random, False)),
    )
    told(
        "ships, the advised rows collected, 5 looks",
        drawn(lambda: followed(random, True)),
        drawn(lambda: followed(random, False)),
    )
    for won in (0.0, 0.005):
        told(
            f"a format that loses too much passes (won {won:.1%})",
            drawn(lambda won=won: searched(random, won, FORMATS)),
            drawn(lambda won=won: searched(random, won, FINALISTS)),
        )
    for n in (30, 100):
        told(
            f"3 % spoiled passes, {n} questions",
            drawn(lambda n=n: spoilt(random, n)),
            drawn(lambda n=n: random.binomial(n, 0.03) == 0),
        )
    for name, sizes in UNEQUAL.items():
        pairs = [unequal(random, sizes) for _ in range(draws)]
        told(f"ships, groups {name}", [one for one, _ in pairs])
        told("  95 % interval misses the gain", [other for _, other in pairs])
    for rare, n in SKEWED:
        pairs = [skewed(random, rare, n) for _ in range(draws)]
        told(f"ships, {rare:.0%} spoiled, {n} questions", [one for one, _ in pairs])
        told("  95 % interval misses the gain", [other for _, other in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="draws a cell")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples of a bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    resampling.DRAWS = given.resamples
    run(given.draws, given.seed)


if __name__ == "__main__":
    main()
