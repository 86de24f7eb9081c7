"""`burnish runs`: what has been run in this workspace."""

from burnish.cli.options import AsJson
from burnish.cli.output import format_table, show


def command(as_json: AsJson = False) -> None:
    """List the runs of this workspace, oldest first."""
    from burnish import api

    lines = []
    for run in api.runs():
        report = run.read("report.json")
        decision = (report.get("verdict") or {}).get("decision", "")
        lines.append(
            (run.id, run.recipe.model.name, decision, "yes" if run.artifact.exists() else "")
        )
    heads = ("RUN", "MODEL", "VERDICT", "ARTIFACT")
    show(
        format_table(heads, lines),
        [dict(zip(map(str.lower, heads), line, strict=True)) for line in lines],
        as_json,
    )
