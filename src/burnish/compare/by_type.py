"""Each route's score by question type, and the best route per type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from burnish.compare.teacher_ceiling import CEILING
from burnish.core.errors import BadRecipe
from burnish.core.records import Interval, Row, Scores
from burnish.core.stats import mean_interval, paired_test


@dataclass(frozen=True, slots=True)
class Lead:
    """The route with the highest score on a question type, the runner-up, and the gain over it."""

    route: str
    rival: str
    gain: Interval

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval of the gain lies above 0."""
        return self.gain.low > 0


@dataclass(frozen=True, slots=True)
class TypeScores:
    """Questions of one type: each route's mean with its interval, and the leader.

    A route that was given up before it was asked any of them is left out. There is no leader if
    there is one route, or the two best are equal.
    """

    scores: Mapping[str, Interval]
    lead: Lead | None


def scores_by_type(
    scores: Mapping[str, Scores], rows: Sequence[Row], confidence: float, seed: int
) -> dict[str, TypeScores]:
    """Return type → the routes' scores on it, sorted by type; `rows` are the test rows in use.

    The intervals are not adjusted for the number of cells, nor for selecting the best route.
    Questions without a type are left out; the result is empty if none has one.
    """
    ids_by_type: dict[str, set[str]] = {}
    for row in rows:
        if row.type is not None:
            ids_by_type.setdefault(row.type, set()).add(row.id)
    result = {}
    for kind, ids in sorted(ids_by_type.items()):
        selected = {route: _select(route_scores, ids) for route, route_scores in scores.items()}
        selected = {
            route: route_scores
            for route, route_scores in selected.items()
            if route_scores.predictions
        }
        means = {
            route: mean_interval(route_scores.values, route_scores.clusters, confidence, seed)
            for route, route_scores in selected.items()
        }
        result[kind] = TypeScores(means, _find_lead(selected, means, confidence))
    return result


def _select(scores: Scores, ids: set[str]) -> Scores:
    return replace(
        scores,
        predictions=[prediction for prediction in scores.predictions if prediction.row in ids],
    )


def _find_lead(
    scores: Mapping[str, Scores], means: Mapping[str, Interval], confidence: float
) -> Lead | None:
    """Return the best route and the runner-up, without the ceiling, on the questions that both
    answered."""
    order = sorted((name for name in means if name != CEILING), key=lambda name: -means[name].value)
    if len(order) < 2:
        return None
    best, rival = order[:2]
    gain = paired_test(*scores[best].paired_with(scores[rival]), confidence).gain
    return Lead(best, rival, gain) if gain.value > 0 else None


def refuse_without_types(column: str | None, rows: Sequence[Row]) -> None:
    """Raise BadRecipe if the named column gives no question a type."""
    if column and not any(row.type for row in rows):
        raise BadRecipe(
            f"No test row has a question type in `{column}`.",
            "Correct data.question_type, or leave it out.",
        )


def format_types(types: Mapping[str, TypeScores]) -> str:
    """Format the scores for the terminal: a line per type and route."""
    lines = ["By type of question:"]
    width = max(len(route) for type_scores in types.values() for route in type_scores.scores) + 2
    for kind, type_scores in types.items():
        lines.append(f"  {kind} ({max(mean.n for mean in type_scores.scores.values())} questions)")
        lines += [
            f"    {route:<{width}} {mean.value:7.1%}  ({mean.low:.1%} to {mean.high:.1%})"
            for route, mean in type_scores.scores.items()
        ]
        if lead := type_scores.lead:
            gain = lead.gain
            ends = f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
            text = f"{lead.route} leads {lead.rival} by {100 * gain.value:+.1f} points"
            lines.append(f"    {text} {ends}{'' if lead.is_sure else ': not settled'}")
    return "\n".join(lines)
