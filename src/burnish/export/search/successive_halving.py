"""Successive halving that doesn't drop candidates by chance (Jamieson & Talwalkar 2016; bounds as
in racing, Maron & Moore 1994).

Each round asks the remaining candidates more questions and halves them. A candidate of the worse
half is dropped only if it is surely worse than the last of the better half, question by question;
all those decisions share one error rate (Bonferroni). The most faithful candidate always stays, as
the fallback if every faster one loses too much.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from burnish.core.recipe.export import Export, FormatSearch
from burnish.core.stats import loss_bound, quantile_gap
from burnish.export.search.limits import LIMITS, broken_limits, explain_excess
from burnish.export.search.trial import CandidateTrial, DropReason

#: Resident memory of the same server varies by this share between starts.
_MEMORY_NOISE = 0.05


@dataclass(frozen=True, slots=True)
class SearchRules:
    """The rules of dropping: the recipe's section, the trained model's scores in the order of
    asking, the confidence of one decision, and the questions' clusters."""

    settings: Export
    trained_scores: Sequence[float]
    confidence: float
    clusters: Sequence[int] = ()

    @property
    def fit(self) -> FormatSearch:
        """The limits, and the objective to rank by."""
        return self.settings.fit

    def loss(self, trial: CandidateTrial) -> float:
        """Return how much lower a trial scores than the trained model on the same questions."""
        n = len(trial.scores)
        return (sum(self.trained_scores[:n]) - sum(trial.scores)) / max(n, 1)

    def loss_lower_bound(self, trial: CandidateTrial) -> float:
        """Return the lower confidence bound of the loss."""
        n = len(trial.scores)
        return -loss_bound(
            trial.scores, self.trained_scores[:n], self.confidence, self.clusters[:n]
        )

    def gate_confidence(self, candidates: int) -> float:
        """Return the gate's confidence for one format when any of `candidates` may reach it.

        The finalists are those that looked best on the very questions that the gate asks, so all
        candidates share its error rate (Bonferroni), not only the finalists.
        """
        return 1 - (1 - self.settings.confidence) / max(candidates, 1)

    @property
    def budget(self) -> float:
        """The loss that the parity gate allows."""
        mean = sum(self.trained_scores) / len(self.trained_scores)
        return min(self.settings.points, self.settings.relative * mean)

    def rank(self, trial: CandidateTrial) -> tuple[bool, float]:
        """Return a sort key: trials within the budget first, then by the objective."""
        return self.loss(trial) > self.budget, RANKED_VALUES[self.fit.best](self, trial)


RANKED_VALUES: Mapping[str, Callable[[SearchRules, CandidateTrial], float]] = {
    "latency": lambda rules, trial: trial.latency(0.95),
    "memory": lambda rules, trial: trial.memory_bytes,
    "disk": lambda rules, trial: trial.disk_bytes,
    "score": lambda rules, trial: rules.loss(trial),
}


def _slower(rules: SearchRules, one: CandidateTrial, other: CandidateTrial) -> bool:
    return quantile_gap(one.seconds, other.seconds, 0.95, 2 * rules.confidence - 1).low > 0


def _less_accurate(rules: SearchRules, one: CandidateTrial, other: CandidateTrial) -> bool:
    clusters = rules.clusters[: len(one.scores)]
    return -loss_bound(one.scores, other.scores, rules.confidence, clusters) > 0


_SURELY_WORSE: Mapping[str, Callable[[SearchRules, CandidateTrial, CandidateTrial], bool]] = {
    "latency": _slower,
    "memory": lambda _, one, other: one.memory_bytes > (1 + _MEMORY_NOISE) * other.memory_bytes,
    "disk": lambda _, one, other: one.disk_bytes > other.disk_bytes,
    "score": _less_accurate,
}


def drop_violators(trials: Sequence[CandidateTrial], rules: SearchRules) -> None:
    """Drop trials that surely break a limit or surely lose more than the gate allows."""
    for trial in in_race(trials):
        if over := broken_limits(trial, rules.fit, rules.confidence):
            worst = max(over, key=lambda name: over[name])
            trial.dropped = DropReason("limit", f"its {explain_excess(trial, rules.fit, worst)}")
        elif (least := rules.loss_lower_bound(trial)) > rules.budget:
            trial.dropped = DropReason(
                "loss",
                f"it surely loses {100 * least:.1f} points or more; "
                f"{100 * rules.budget:.1f} are allowed",
            )


def drop_worse_half(trials: Sequence[CandidateTrial], rules: SearchRules) -> None:
    """Drop trials of the worse half that are surely worse than the last of the better half."""
    ranked = sorted(in_race(trials), key=rules.rank)
    kept = max((len(ranked) + 1) // 2, min(rules.fit.finalists, len(ranked)))
    if kept == len(ranked):
        return
    last, faithful = ranked[kept - 1], min(ranked, key=rules.loss)
    for trial in ranked[kept:]:
        if trial is faithful:
            continue
        if _SURELY_WORSE[rules.fit.best](rules, trial, last):
            what = {"latency": "slower", "score": "less often right"}.get(rules.fit.best, "larger")
            trial.dropped = DropReason("behind", f"surely {what} than {last.candidate}")
        elif _less_accurate(rules, trial, faithful):
            trial.dropped = DropReason(
                "behind", f"surely less often right than {faithful.candidate}"
            )


def in_race(trials: Sequence[CandidateTrial]) -> list[CandidateTrial]:
    """Return the trials that aren't dropped."""
    return [trial for trial in trials if trial.dropped is None]


def select_finalists(trials: Sequence[CandidateTrial], rules: SearchRules) -> list[CandidateTrial]:
    """Return the trials for the gate, in order: the best that keep the limits, the most faithful
    last."""
    ranked = sorted(
        (trial for trial in in_race(trials) if not broken_limits(trial, rules.fit)), key=rules.rank
    )
    if len(ranked) <= rules.fit.finalists:
        return ranked
    first = ranked[: rules.fit.finalists - 1]
    rest = [trial for trial in ranked if trial not in first]
    return [*first, min(rest, key=rules.loss)]


def count_decisions(candidates: int, rounds: int) -> int:
    """Return the number of decisions that share the error rate: per round and candidate, each
    limit, the loss, and the two of halving."""
    return max(candidates * rounds * (len(LIMITS) + 3), 1)
