"""Plots as SVG: routes with their intervals, training curves, forecast ranges.

Colors are CSS classes, so that a plot follows the page's light or dark scheme.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from burnish.report.contents import Curve, ForecastLine, RouteLine


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map of values from `low` to `high` to pixels from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        span = self.high - self.low or 1.0
        return round(self.begin + (value - self.low) / span * (self.end - self.begin), 1)


@dataclass(frozen=True, slots=True)
class Tick:
    """One labelled position on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """One route: its dot and its interval."""

    name: str
    y: float
    x: float
    low: float
    high: float
    text: str
    best: bool


@dataclass(frozen=True, slots=True)
class RoutePlot:
    """Dots with intervals over one axis of shares."""

    width: int
    height: int
    dots: Sequence[Dot]
    marks: Sequence[Tick]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve as an SVG path, with the position of its label; `best` is its best point."""

    name: str
    kind: str
    path: str
    end: tuple[float, float]
    best: tuple[float, float, str]


@dataclass(frozen=True, slots=True)
class CurvePlot:
    """Curves over steps."""

    width: int
    height: int
    lines: Sequence[Line]
    x_marks: Sequence[Tick]
    y_marks: Sequence[Tick]
    rises: bool = False


@dataclass(frozen=True, slots=True)
class ForecastRange:
    """One forecast: its interval, the expected value and the actual one, as shares of the width."""

    line: ForecastLine
    low: float
    high: float
    expected: float
    actual: float | None
    inside: bool


def route_plot(routes: Sequence[RouteLine], width: int = 640) -> RoutePlot:
    """Plot scores with their intervals; the axis shows only the range in use."""
    low = min(route.score.low for route in routes)
    high = max(route.score.high for route in routes)
    step = step_of(max(high - low, 0.02), 5)
    low, high = max(math.floor(low / step) * step, 0), min(math.ceil(high / step) * step, 1)
    scale = Scale(low, high, 118, width - 24)
    best = max(routes, key=lambda route: route.score.value)
    dots = [
        Dot(
            route.name, 28 + 40 * index, scale.at(route.score.value), scale.at(route.score.low),
            scale.at(route.score.high), f"{100 * route.score.value:.1f}%", route is best,
        )
        for index, route in enumerate(routes)
    ]  # fmt: skip
    marks = [Tick(scale.at(value), f"{100 * value:.0f}%") for value in ticks_of(low, high, step)]
    return RoutePlot(width, 40 * len(routes) + 42, dots, marks)


def curve_plot(curves: Sequence[Curve], width: int = 640, height: int = 260) -> CurvePlot:
    """Plot losses or rewards over optimizer steps."""
    rises = any("reward" in curve.name for curve in curves)
    steps = [step for curve in curves for step in curve.steps]
    values = sorted(value for curve in curves for value in curve.values)
    # A first step far above the rest would flatten everything else.
    top = values[min(int(0.99 * len(values)), len(values) - 1)]
    bottom = values[0]
    step = step_of(max(top - bottom, 1e-3), 4)
    low, high = math.floor(bottom / step) * step, math.ceil(top / step) * step
    x = Scale(0, max(steps), 48, width - 110)
    y = Scale(low, high, height - 34, 14)
    lines = []
    for curve in curves:
        points = [
            (x.at(at), y.at(min(value, high)))
            for at, value in zip(curve.steps, curve.values, strict=True)
        ]
        value = (max if rises else min)(curve.values)
        best = (*points[curve.values.index(value)], f"{value:.3f}")
        kind = "validation" if "validation" in curve.name else "training"
        path = "M" + "L".join(f"{px} {py}" for px, py in points)
        lines.append(Line(curve.name, kind, path, points[-1], best))
    x_step = step_of(max(steps), 5)
    x_marks = [Tick(x.at(at), f"{at:.0f}") for at in ticks_of(0, max(steps), max(x_step, 1))]
    y_marks = [Tick(y.at(at), f"{at:.2g}") for at in ticks_of(low, high, step)]
    return CurvePlot(width, height, _separate_labels(lines), x_marks, y_marks, rises)


def forecast_ranges(lines: Sequence[ForecastLine]) -> list[ForecastRange]:
    """Return each forecast on a scale of its own, from 0 to a little over its largest value."""
    ranges = []
    for line in lines:
        most = 1.08 * max(line.high, line.actual or 0, 1e-9)
        actual = None if line.actual is None else 100 * line.actual / most
        inside = line.actual is not None and line.low <= line.actual <= line.high
        ranges.append(
            ForecastRange(
                line, 100 * line.low / most, 100 * line.high / most, 100 * line.expected / most,
                actual, inside,
            )
        )  # fmt: skip
    return ranges


def _separate_labels(lines: Sequence[Line]) -> list[Line]:
    """Move the labels at the ends of curves so that they don't overlap."""
    placed: list[Line] = []
    occupied: list[float] = []
    for line in sorted(lines, key=lambda line: line.end[1]):
        y = line.end[1]
        if occupied and y - occupied[-1] < 16:
            y = occupied[-1] + 16
        occupied.append(y)
        placed.append(Line(line.name, line.kind, line.path, (line.end[0], y), line.best))
    return placed


def step_of(span: float, count: int) -> float:
    """Return a round step (1, 2 or 5 times a power of ten) that divides `span` into about
    `count`."""
    rough = span / count
    power = 10 ** math.floor(math.log10(rough))
    return next(
        float(power * factor) for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999
    )


def ticks_of(low: float, high: float, step: float) -> list[float]:
    """Return the multiples of `step` from `low` to `high`."""
    return [low + step * index for index in range(round((high - low) / step + 0.499))] + (
        [high] if abs((high - low) / step - round((high - low) / step)) < 1e-6 else []
    )
