"""Successive halving that doesn't drop by luck (Jamieson & Talwalkar 2016; bounds as in racing,
Maron & Moore 1994).

Each round asks the candidates that are left more questions and halves them. One of the worse half
goes only if it is surely worse than the last of the better half, question by question; all those
decisions share one error rate (Bonferroni). The most faithful one always stays: it is what is left
when every quicker one has lost too much.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from burnish.core.recipe.export import Export, Fit
from burnish.core.stats import loss_bound, quantile_gap
from burnish.export.search.limits import LIMITS, broken, too_much
from burnish.export.search.trial import Drop, Trial

#: Resident memory of the same server differs by this share from start to start.
_MEMORY_NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides: the recipe's section, the trained model's scores in the order of asking, the
    confidence of one decision."""

    settings: Export
    trained: Sequence[float]
    confidence: float

    @property
    def fit(self) -> Fit:
        """The limits, and what is best."""
        return self.settings.fit

    def loss(self, trial: Trial) -> float:
        """How much lower a trial scores than the trained model on the same questions."""
        n = len(trial.scores)
        return (sum(self.trained[:n]) - sum(trial.scores)) / max(n, 1)

    def least_loss(self, trial: Trial) -> float:
        """The loss that it surely has."""
        before = self.trained[: len(trial.scores)]
        return -loss_bound(trial.scores, before, self.confidence)

    @property
    def budget(self) -> float:
        """Loss that the parity gate allows."""
        mean = sum(self.trained) / len(self.trained)
        return min(self.settings.points, self.settings.relative * mean)

    def rank(self, trial: Trial) -> tuple[bool, float]:
        """Order of the trials: those within the budget first, then by what is best."""
        return self.loss(trial) > self.budget, VALUES[self.fit.best](self, trial)


VALUES: Mapping[str, Callable[[Rules, Trial], float]] = {
    "latency": lambda rules, trial: trial.latency(0.95),
    "memory": lambda rules, trial: trial.memory_bytes,
    "disk": lambda rules, trial: trial.disk_bytes,
    "score": lambda rules, trial: rules.loss(trial),
}


def _slower(rules: Rules, one: Trial, other: Trial) -> bool:
    return quantile_gap(one.seconds, other.seconds, 0.95, 2 * rules.confidence - 1).low > 0


def _less_right(rules: Rules, one: Trial, other: Trial) -> bool:
    return -loss_bound(one.scores, other.scores, rules.confidence) > 0


_SURELY_WORSE: Mapping[str, Callable[[Rules, Trial, Trial], bool]] = {
    "latency": _slower,
    "memory": lambda _, one, other: one.memory_bytes > (1 + _MEMORY_NOISE) * other.memory_bytes,
    "disk": lambda _, one, other: one.disk_bytes > other.disk_bytes,
    "score": _less_right,
}


def refuse(trials: Sequence[Trial], rules: Rules) -> None:
    """Drop those that surely break a limit or surely lose more than the gate allows."""
    for trial in alive(trials):
        if over := broken(trial, rules.fit, rules.confidence):
            worst = max(over, key=lambda name: over[name])
            trial.dropped = Drop("limit", f"its {too_much(trial, rules.fit, worst)}")
        elif (least := rules.least_loss(trial)) > rules.budget:
            trial.dropped = Drop(
                "loss",
                f"it surely loses {100 * least:.1f} points or more; "
                f"{100 * rules.budget:.1f} are allowed",
            )


def halve(trials: Sequence[Trial], rules: Rules) -> None:
    """Drop those of the worse half that are surely worse than the last of the better half."""
    ranked = sorted(alive(trials), key=rules.rank)
    kept = max((len(ranked) + 1) // 2, min(rules.fit.finalists, len(ranked)))
    if kept == len(ranked):
        return
    last, faithful = ranked[kept - 1], min(ranked, key=rules.loss)
    for trial in ranked[kept:]:
        if trial is faithful:
            continue
        if _SURELY_WORSE[rules.fit.best](rules, trial, last):
            what = {"latency": "slower", "score": "less often right"}.get(rules.fit.best, "larger")
            trial.dropped = Drop("behind", f"surely {what} than {last.candidate}")
        elif _less_right(rules, trial, faithful):
            trial.dropped = Drop("behind", f"surely less often right than {faithful.candidate}")


def alive(trials: Sequence[Trial]) -> list[Trial]:
    """Those that are still in the race."""
    return [trial for trial in trials if trial.dropped is None]


def finalists(trials: Sequence[Trial], rules: Rules) -> list[Trial]:
    """Who comes before the gate, in order: the best that keep the limits, at last the most
    faithful of them."""
    ranked = sorted(
        (trial for trial in alive(trials) if not broken(trial, rules.fit)), key=rules.rank
    )
    if len(ranked) <= rules.fit.finalists:
        return ranked
    first = ranked[: rules.fit.finalists - 1]
    rest = [trial for trial in ranked if trial not in first]
    return [*first, min(rest, key=rules.loss)]


def decisions(candidates: int, rounds: int) -> int:
    """How many decisions share the error rate: per round and candidate, each limit, the loss, and
    the two of halving."""
    return max(candidates * rounds * (len(LIMITS) + 3), 1)
