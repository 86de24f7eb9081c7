"""Formats as points: how long an answer takes, and what it costs in the task's metric.

The front joins the points that no other one beats in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish.core.records import Interval
from burnish.report.plots import Scale, Tick, step_of, ticks_of

#: A candidate that loses more than this lies on the lower edge: the others must stay readable.
FLOOR = -0.12
#: Pixels of a letter, and of a line of letters.
_LETTER, _LINE = 7.0, 15.0


@dataclass(frozen=True, slots=True)
class Point:
    """One format: p95 latency in seconds, and its metric less the trained model's; whether it
    stayed to the end, and was asked as much as the best."""

    name: str
    latency_s: float
    gain: Interval
    picked: bool = False
    stayed: bool = True


@dataclass(frozen=True, slots=True)
class PlacedPoint:
    """A point on the page, with its interval from `low` to `high`; its name stands at `text`."""

    name: str
    x: float
    y: float
    low: float
    high: float
    text: float
    kind: str


@dataclass(frozen=True, slots=True)
class ParetoPlot:
    """Points, the path of their front, and where a limit on the latency lies (None without)."""

    width: int
    height: int
    places: Sequence[PlacedPoint]
    front: str
    limit: float | None
    zero: float
    x_marks: Sequence[Tick]
    y_marks: Sequence[Tick]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats or equals in both, quickest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency_s, -point.gain.value)):
        if not front or point.gain.value > front[-1].gain.value:
            front.append(point)
    return front


def pareto_plot(
    points: Sequence[Point], limit_s: float | None = None, width: int = 640, height: int = 320
) -> ParetoPlot:
    """Latency across, on a logarithmic scale, gain upwards.

    The front is of those that stayed to the end, and so are the intervals: of what was asked a few
    questions only they would leave no room for anything else.
    """
    stayed = [point for point in points if point.stayed] or list(points)
    front = pareto_front(stayed)
    shown = [*(point.latency_s for point in points), *([limit_s] if limit_s else [])]
    left, right = min(shown) / 1.15, max(shown) * 1.15
    bottom = max(min(0.0, *[point.gain.low for point in stayed]), FLOOR)
    top = max(0.0, *[point.gain.high for point in stayed])
    up = step_of(max(top - bottom, 0.01), 5)
    across = Scale(math.log(left), math.log(right), 56, width - 20)
    y = Scale(bottom, top, height - 40, 16)

    def x(seconds: float) -> float:
        return across.at(math.log(seconds))

    def within(gain: float) -> float:
        return y.at(min(max(gain, bottom), top))

    places = [
        PlacedPoint(
            point.name,
            x(point.latency_s),
            within(point.gain.value),
            within(point.gain.low if point.stayed else point.gain.value),
            within(point.gain.high if point.stayed else point.gain.value),
            0.0,
            "picked" if point.picked else "front" if point in front else "behind",
        )
        for point in points
    ]
    path = "L".join(f"{x(point.latency_s)} {within(point.gain.value)}" for point in front)
    return ParetoPlot(
        width,
        height,
        _place_names(places),
        f"M{path}",
        None if limit_s is None else x(limit_s),
        y.at(0),
        [Tick(x(at), f"{1000 * at:g} ms") for at in _round_numbers(left, right)],
        [
            Tick(y.at(at), f"{100 * at:+.3g}")
            for at in ticks_of(-up * int(-bottom / up), top, up)
            if at <= top
        ],
    )


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [round(at, 9) for at in found if low <= at <= high]


def _place_names(places: Sequence[PlacedPoint]) -> list[PlacedPoint]:
    """The places with their names below them, each on the first line that no other name is on."""
    taken: list[tuple[float, float, float]] = []
    found = []
    for place in sorted(places, key=lambda place: place.x):
        if place.kind == "behind":
            found.append(place)
            continue
        begin, end = place.x, place.x + _LETTER * len(place.name)
        text = place.y + 18
        while any(a < end and begin < b and abs(text - at) < _LINE for a, b, at in taken):
            text += _LINE
        taken.append((begin, end, text))
        found.append(replace(place, text=text))
    return found
