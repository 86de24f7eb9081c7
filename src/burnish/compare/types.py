"""Which route for which questions: each one's score by the type that the data gives a question."""

from collections.abc import Mapping, Sequence

from burnish.core.errors import BadRecipe
from burnish.core.records import Interval, Row, Scores
from burnish.core.stats import mean_interval


def by_type(
    scores: Mapping[str, Scores], rows: Sequence[Row], confidence: float, seed: int
) -> dict[str, dict[str, Interval]]:
    """Type → route → mean with interval, types by name; `rows` are those that were asked, in order.

    The intervals stand alone: they aren't widened for the number of cells. Questions without a type
    are left out; nothing comes back if none has one.
    """
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.type is not None:
            places.setdefault(row.type, []).append(place)
    return {
        kind: {
            route: mean_interval([found.values[place] for place in own], confidence, seed)
            for route, found in scores.items()
        }
        for kind, own in sorted(places.items())
    }


def refuse_without_types(column: str | None, rows: Sequence[Row]) -> None:
    """Raise BadRecipe if a column is named that gives no question a type."""
    if column and not any(row.type for row in rows):
        raise BadRecipe(
            f"No test row says in `{column}` what type of question it is.",
            "Correct data.question_type, or leave it out.",
        )


def in_table(types: Mapping[str, Mapping[str, Interval]]) -> str:
    """What a person reads on the terminal: a line for each type and route."""
    lines = ["By type of question:"]
    width = max(len(route) for found in types.values() for route in found) + 2
    for kind, found in types.items():
        lines.append(f"  {kind} ({next(iter(found.values())).n} questions)")
        lines += [
            f"    {route:<{width}} {one.value:7.1%}  ({one.low:.1%} to {one.high:.1%})"
            for route, one in found.items()
        ]
    return "\n".join(lines)
