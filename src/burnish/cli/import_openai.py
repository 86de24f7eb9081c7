"""`burnish import-openai`: OpenAI's fine-tunes, trained and asked again here."""

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import AsJson, Out
from burnish.cli.output import show


def command(
    folder: Annotated[Path, typer.Argument(help="What examples/openai_export.py saved.")],
    base: Annotated[
        str, typer.Option(help="The model that is trained in the place of OpenAI's.")
    ] = "smollm2-135m-instruct",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train OpenAI's fine-tuning jobs again on your own machine and compare old answers with new.

    Example: burnish import-openai saved --base smollm2-135m-instruct
    """
    from burnish import api

    result = api.import_openai(folder, base, out)
    show(result.as_text(), result.as_dict(), as_json)
