"""`burnish init`: a new project, from an example or with a recipe to fill in."""

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import AsJson
from burnish.cli.output import show


def command(
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.")],
    example: Annotated[
        str | None,
        typer.Option("--example", metavar="NAME", help="Copy an example: support-desk."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a project: a recipe with every field explained, or an example with its data.

    Example: burnish init desk --example support-desk
    """
    from burnish import api

    project = api.init(folder, example)
    what = f"the example {example}" if example else "a recipe to fill in"
    text = f"{project.folder}: {what}, {len(project.files)} files. Begin with its README.md."
    show(text, project.as_dict(), as_json)
