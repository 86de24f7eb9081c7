"""`burnish check`: what is wrong with the data, row by row, and the fix."""

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import AsJson, Changes, ModelName
from burnish.cli.output import show
from burnish.core.records import Finding, describe_rows


def command(
    files: Annotated[list[Path], typer.Argument(help="Data files, or one recipe (YAML).")],
    model: ModelName = None,
    changes: Changes = None,
    refreeze: Annotated[
        bool, typer.Option("--refreeze", help="Accept the recipe's test split as it is now.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check data: shape, duplicates, leaks, personal data; with --model, the tokens too.

    Exit code 1 if there is an error. Example: burnish check train.jsonl test.jsonl
    """
    from burnish import api

    report = api.check(files, model=model, changes=changes or (), refreeze=refreeze)
    text = "\n".join(
        [*map(_format_finding, report.findings), _format_summary(report.findings, report.rows)]
    )
    findings = [finding.as_dict() for finding in report.findings]
    show(text, {"ok": report.ok, "rows": report.rows, "findings": findings}, as_json)
    raise typer.Exit(0 if report.ok else 1)


def _format_finding(finding: Finding) -> str:
    head = f"{finding.severity}: {finding.message} [{finding.code}]"
    where = describe_rows(Path(finding.file).name, finding.rows)
    return f"{head}\n    {where}\n    fix: {finding.fix}"


def _format_summary(findings: tuple[Finding, ...], rows: int) -> str:
    counts = {"error": 0, "warning": 0, "note": 0}
    for finding in findings:
        counts[finding.severity] += 1
    kinds = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
    return f"{rows} rows: {kinds}."
