"""Formats as points: how long an answer takes, and what it costs in the task's metric.

The front joins the points that no other one beats in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from burnish.core.records import Interval
from burnish.report.plots import Mark, Scale, step_of, ticks_of

#: A candidate that loses more than this lies on the lower edge: the others must stay readable.
FLOOR = -0.12


@dataclass(frozen=True, slots=True)
class Point:
    """One format: p95 latency in seconds, and its metric less the trained model's."""

    name: str
    latency_s: float
    gain: Interval
    picked: bool = False


@dataclass(frozen=True, slots=True)
class Place:
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
    places: Sequence[Place]
    front: str
    limit: float | None
    zero: float
    x_marks: Sequence[Mark]
    y_marks: Sequence[Mark]


def front_of(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats or equals in both, quickest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency_s, -point.gain.value)):
        if not front or point.gain.value > front[-1].gain.value:
            front.append(point)
    return front


def pareto_plot(
    points: Sequence[Point], limit_s: float | None = None, width: int = 640, height: int = 320
) -> ParetoPlot:
    """Latency across, gain upwards; both axes show the range that is in use."""
    front = front_of(points)
    right = 1.1 * max([*[point.latency_s for point in points], limit_s or 0.0])
    across = step_of(right, 5)
    bottom = max(min(0.0, *[point.gain.low for point in points]), FLOOR)
    top = max(0.0, *[point.gain.high for point in points])
    up = step_of(max(top - bottom, 0.01), 5)
    x, y = Scale(0, right, 56, width - 20), Scale(bottom, top, height - 40, 16)
    # Neighbours on the front are near each other: their names take turns on three lines.
    turns = {point: 18 + 15 * (number % 3) for number, point in enumerate(front)}
    places = [
        Place(
            point.name,
            x.at(point.latency_s),
            y.at(max(point.gain.value, bottom)),
            y.at(max(point.gain.low, bottom)),
            y.at(max(point.gain.high, bottom)),
            y.at(max(point.gain.value, bottom)) + turns.get(point, 18),
            "picked" if point.picked else "front" if point in front else "behind",
        )
        for point in points
    ]
    path = "L".join(
        f"{x.at(point.latency_s)} {y.at(max(point.gain.value, bottom))}" for point in front
    )
    low = -up * int(-bottom / up)
    return ParetoPlot(
        width,
        height,
        places,
        f"M{path}",
        None if limit_s is None else x.at(limit_s),
        y.at(0),
        [Mark(x.at(at), f"{1000 * at:.0f} ms") for at in ticks_of(0, right, across) if at <= right],
        [Mark(y.at(at), f"{100 * at:+.3g}") for at in ticks_of(low, top, up) if at <= top],
    )
