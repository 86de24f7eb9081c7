"""A Pareto plot of formats: latency against change in the task's metric.

The front joins the points that no other point beats in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish.core.records import Interval
from burnish.report.plots import Scale, Tick, step_of, ticks_of

#: Candidates that lose more than this are drawn on the lower edge, to keep the others readable.
FLOOR = -0.12
#: Width of a character and height of a text line, in pixels.
_LETTER, _LINE = 7.0, 15.0


@dataclass(frozen=True, slots=True)
class Point:
    """One format: p95 latency in seconds, and its gain over the trained model; `stayed` if it
    reached the end and was asked as many questions as the best."""

    name: str
    latency_s: float
    gain: Interval
    picked: bool = False
    stayed: bool = True


@dataclass(frozen=True, slots=True)
class PlacedPoint:
    """A point on the page, with its interval from `low` to `high`; its name is drawn at `text`."""

    name: str
    x: float
    y: float
    low: float
    high: float
    text: float
    kind: str


@dataclass(frozen=True, slots=True)
class ParetoPlot:
    """Points, the path of their front, and the position of a latency limit (None without)."""

    width: int
    height: int
    places: Sequence[PlacedPoint]
    front: str
    limit: float | None
    zero: float
    x_marks: Sequence[Tick]
    y_marks: Sequence[Tick]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats or equals in both, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency_s, -point.gain.value)):
        if not front or point.gain.value > front[-1].gain.value:
            front.append(point)
    return front


def pareto_plot(
    points: Sequence[Point], limit_s: float | None = None, width: int = 640, height: int = 320
) -> ParetoPlot:
    """Plot latency across, on a logarithmic scale, and gain upwards.

    Only candidates that stayed to the end have a front and intervals: those of a few questions
    would dwarf everything else.
    """
    stayed = [point for point in points if point.stayed] or list(points)
    front = pareto_front(stayed)
    shown = [*(point.latency_s for point in points), *([limit_s] if limit_s else [])]
    left, right = min(shown) / 1.15, max(shown) * 1.15
    bottom = max(min(0.0, *[point.gain.low for point in stayed]), FLOOR)
    top = max(0.0, *[point.gain.high for point in stayed])
    y_step = step_of(max(top - bottom, 0.01), 5)
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
            for at in ticks_of(-y_step * int(-bottom / y_step), top, y_step)
            if at <= top
        ],
    )


def _round_numbers(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [round(number, 9) for number in numbers if low <= number <= high]


def _place_names(places: Sequence[PlacedPoint]) -> list[PlacedPoint]:
    """Return the points with their names below them, each on the first free line."""
    occupied: list[tuple[float, float, float]] = []
    placed = []
    for point in sorted(places, key=lambda point: point.x):
        if point.kind == "behind":
            placed.append(point)
            continue
        begin, end = point.x, point.x + _LETTER * len(point.name)
        text = point.y + 18
        while any(a < end and begin < b and abs(text - y) < _LINE for a, b, y in occupied):
            text += _LINE
        occupied.append((begin, end, text))
        placed.append(replace(point, text=text))
    return placed
