"""`export.html`: what was tried on this machine, what was picked, and why not the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from burnish.core.atomic import write_atomic
from burnish.core.records import Interval
from burnish.report.page import environment
from burnish.report.pareto import Point, pareto_plot


@dataclass(frozen=True, slots=True)
class FormatLine:
    """One candidate in the table; latencies in seconds, sizes in bytes. `fate` is why it was
    dropped, and is empty if it stayed to the end. A value that was never measured is None."""

    name: str
    questions: int
    score: float | None
    gain: Interval | None
    latency_p50_s: float
    latency_p95_s: float
    memory_bytes: float
    disk_bytes: float
    start_up_s: float
    fate: str
    picked: bool


@dataclass(frozen=True, slots=True)
class ExportSearchContents:
    """Everything that `export.html` shows."""

    title: str
    headline: str
    paragraph: str
    metric: str
    lines: Sequence[FormatLine]
    reasons: Sequence[str]
    limit_s: float | None
    facts: Mapping[str, str]
    reproduce: str

    @property
    def points(self) -> list[Point]:
        """The candidates that were measured."""
        return [
            Point(line.name, line.latency_p95_s, line.gain, line.picked, not line.fate)
            for line in self.lines
            if line.gain and line.latency_p95_s
        ]


def write_export_search_report(contents: ExportSearchContents, path: Path) -> None:
    """Render the page and write it atomically."""
    write_atomic(path, render_export_search(contents))


def render_export_search(contents: ExportSearchContents) -> str:
    """Return the page as HTML. Everything that comes from data is escaped."""
    points = contents.points
    return (
        environment()
        .get_template("export.html")
        .render(report=contents, plot=pareto_plot(points, contents.limit_s) if points else None)
    )
