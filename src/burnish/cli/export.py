"""`burnish export`: the trained model as what will be served, and proof that it is the same."""

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import AsJson, Changes
from burnish.cli.output import facts, show


def command(
    run: Annotated[str, typer.Argument(help="A run: its id, its folder, or `last`.")],
    to: Annotated[
        str | None, typer.Option(help="merged, adapter, gguf or gguf-lora. [default: the recipe's]")
    ] = None,
    quant: Annotated[
        str | None, typer.Option(help="Number format: bf16, q8_0, q4_k_m, ... [default: auto]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write. [default: exports/ in the run]")
    ] = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Write a run in the format that will be served, and ask it there before it may ship.

    Exit code 1 means that the result doesn't answer like the trained model.

    Example: burnish export last --to gguf --quant q8_0 --out triage-gguf
    """
    from burnish import api

    done = api.export(run, to=to, quant=quant, out=out, changes=changes or ())
    from burnish.export.card import measured

    found = done.parity
    lines = {"folder": str(done.artifact.path), **measured(found.facts, done.size_bytes)}
    lines["shippable"] = "yes" if found.shippable else "no"
    text = "\n".join([facts(lines), *[f"- {reason}" for reason in found.against]])
    show(text, done.as_dict(), as_json)
    raise typer.Exit(done.exit_code)
