"""`report.html`: one file without network access, for a team's boss or auditor."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from burnish.core import number_format as numbers
from burnish.core.atomic import write_atomic
from burnish.report.contents import ReportContents
from burnish.report.plots import curve_plot, forecast_ranges, route_plot

#: Decision → the badge above the headline.
DECISION_SIGNS = {
    "ship": ("yes", "Ship"),
    "dont_fine_tune": ("no", "Don’t fine-tune"),
    "not_enough_evidence": ("open", "Not enough evidence"),
    "learnt": ("yes", "The student has learnt"),
    "not_learnt": ("no", "No gain was shown"),
}


def write_report(contents: ReportContents, path: Path) -> None:
    """Render the contents and write the page atomically."""
    write_atomic(path, render(contents))


def render(contents: ReportContents) -> str:
    """Return the page as HTML. Everything that comes from data is escaped."""
    kind, sign = DECISION_SIGNS[contents.decision]
    return (
        environment()
        .get_template("report.html")
        .render(
            report=contents,
            kind=kind,
            sign=sign,
            routes=route_plot(contents.routes) if contents.routes else None,
            curves=curve_plot(contents.curves) if contents.curves else None,
            ranges=forecast_ranges(contents.forecast),
        )
    )


def environment() -> Environment:
    """Return the templates of this room, with number formats as filters."""
    templates = Environment(
        loader=PackageLoader("burnish.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = ("share", "points", "interval", "gain_interval", "p_value", "duration", "size",
               "money", "amount", "name")  # fmt: skip
    templates.filters.update({name: getattr(numbers, name) for name in formats})
    return templates
