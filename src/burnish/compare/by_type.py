"""Which route for which questions: each one's score by the type that the data gives a question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from burnish.compare.teacher_ceiling import CEILING
from burnish.core.errors import BadRecipe
from burnish.core.records import Interval, Row, Scores
from burnish.core.stats import mean_interval, paired_test


@dataclass(frozen=True, slots=True)
class Lead:
    """The route that scores highest on a type of question, the next one, and the gain over it."""

    route: str
    rival: str
    gain: Interval

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval of the gain lies above 0."""
        return self.gain.low > 0


@dataclass(frozen=True, slots=True)
class TypeScores:
    """Questions of one type: each route's mean with its interval, and who leads.

    A route that was given up before it was asked one of them is left out. Nobody leads where there
    is one route, or the two best are level.
    """

    scores: Mapping[str, Interval]
    lead: Lead | None


def scores_by_type(
    scores: Mapping[str, Scores], rows: Sequence[Row], confidence: float, seed: int
) -> dict[str, TypeScores]:
    """Type → what the routes do on it, types by name; `rows` are those that were asked.

    The intervals stand alone: they aren't widened for the number of cells, nor for looking which
    route is best. Questions without a type are left out; nothing comes back if none has one.
    """
    asked: dict[str, set[str]] = {}
    for row in rows:
        if row.type is not None:
            asked.setdefault(row.type, set()).add(row.id)
    found = {}
    for kind, ids in sorted(asked.items()):
        own = {route: _select(one, ids) for route, one in scores.items()}
        own = {route: one for route, one in own.items() if one.predictions}
        means = {
            route: mean_interval(one.values, one.clusters, confidence, seed)
            for route, one in own.items()
        }
        found[kind] = TypeScores(means, _find_lead(own, means, confidence))
    return found


def _select(scores: Scores, ids: set[str]) -> Scores:
    return replace(scores, predictions=[one for one in scores.predictions if one.row in ids])


def _find_lead(
    scores: Mapping[str, Scores], means: Mapping[str, Interval], confidence: float
) -> Lead | None:
    """The best route and the next, a ceiling aside; on the questions that both were asked."""
    order = sorted((name for name in means if name != CEILING), key=lambda name: -means[name].value)
    if len(order) < 2:
        return None
    best, rival = order[:2]
    gain = paired_test(*scores[best].paired_with(scores[rival]), confidence).gain
    return Lead(best, rival, gain) if gain.value > 0 else None


def refuse_without_types(column: str | None, rows: Sequence[Row]) -> None:
    """Raise BadRecipe if a column is named that gives no question a type."""
    if column and not any(row.type for row in rows):
        raise BadRecipe(
            f"No test row says in `{column}` what type of question it is.",
            "Correct data.question_type, or leave it out.",
        )


def format_types(types: Mapping[str, TypeScores]) -> str:
    """What a person reads on the terminal: a line for each type and route."""
    lines = ["By type of question:"]
    width = max(len(route) for found in types.values() for route in found.scores) + 2
    for kind, found in types.items():
        lines.append(f"  {kind} ({max(one.n for one in found.scores.values())} questions)")
        lines += [
            f"    {route:<{width}} {one.value:7.1%}  ({one.low:.1%} to {one.high:.1%})"
            for route, one in found.scores.items()
        ]
        if found.lead:
            gain = found.lead.gain
            ends = f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
            told = f"{found.lead.route} leads {found.lead.rival} by {100 * gain.value:+.1f} points"
            lines.append(f"    {told} {ends}{'' if found.lead.is_sure else ': not settled'}")
    return "\n".join(lines)
