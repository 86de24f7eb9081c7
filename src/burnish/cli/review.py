"""`burnish review`: a person decides on the rows that the checks or the teachers dispute."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import click
import typer

from burnish.cli.options import AsJson
from burnish.cli.output import show
from burnish.core.errors import BadData

if TYPE_CHECKING:
    from burnish.api import DisputedRow, Review


def command(
    run: Annotated[str, typer.Argument(help="A run of `burnish distill`, or `last`.")] = "last",
    sample: Annotated[
        int | None, typer.Option(min=1, help="Show only so many rows, drawn by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --sample.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Decide on the rows of a distillation that were dropped because an answer failed a check or
    the teachers disagree.

    One key a row: k keeps the first answer, 2 to 9 that of another teacher, e writes another one,
    d drops the row, s skips it for now, q ends. Every decision is on the disk at once; the next
    `burnish distill RUN/recipe.yaml` learns accordingly. With --json, or where no terminal is, the
    rows are listed.
    """
    from burnish import api

    review = api.review(run, sample, seed)
    rows = review.rows
    if as_json or not sys.stdin.isatty():
        listed = "\n\n".join(_format_row(row) for row in rows) or "No row waits."
        show(listed, [asdict(row) for row in rows], as_json)
        return
    for number, row in enumerate(rows, start=1):
        typer.echo(f"\n{number} of {len(rows)}\n{_format_row(row)}")
        if not _ask_decision(review, row):
            break
    left = len(api.review(run, sample, seed).rows)
    typer.echo(f"\n{left} rows wait. Decisions count from the next `burnish distill` on.")


def _format_row(row: "DisputedRow") -> str:
    """A row as a person reads it."""
    lines = [f"{row.row}: {row.reason}"]
    lines += [f"  {role}: {content}" for role, content in row.question]
    lines += [
        f"  [{number}] {teacher}: {answer}"
        for number, (teacher, answer) in enumerate(row.answers, start=1)
    ]
    if row.own_answer:
        lines.append(f"  the row's own answer: {row.own_answer}")
    return "\n".join(lines)


def _ask_decision(review: "Review", row: "DisputedRow") -> bool:
    """Ask until a decision is written down; False to end the review."""
    words = {"k": "keep", "d": "drop", "e": "edit", "s": "skip"}
    while True:
        typer.echo("keep, drop, edit, skip, quit? [k/d/e/s/q] ", nl=False)
        key = click.getchar()
        typer.echo(key if key.isprintable() else "")
        if key in ("q", "\x04"):
            return False
        answers = [answer for _, answer in row.answers]
        index = int(key) - 1 if key.isdecimal() else 0
        word = "keep" if key.isdecimal() else words.get(key, "")
        if not word or not 0 <= index < max(len(answers), 1):
            continue
        answer = answers[index] if answers else ""
        try:
            review.decide(row, word, _edit_answer(answer) if word == "edit" else answer)
        except BadData as error:
            typer.echo(str(error))
            continue
        return True


def _edit_answer(answer: str) -> str:
    """The answer as the person writes it: in an editor if it has several lines."""
    if "\n" in answer:
        return (click.edit(answer) or answer).rstrip("\n")
    return str(typer.prompt("Answer", default=answer or None))
