"""`burnish recipe`: print the schema, or a recipe with every field spelt out."""

import json
from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Changes, RecipeFile

_HELP = "Take what {} says; comments name what differs here."


def command(
    recipe: RecipeFile = None,
    changes: Changes = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema.")] = False,
    deepspeed: Annotated[
        Path | None,
        typer.Option("--from-deepspeed", metavar="FILE", help=_HELP.format("a ds_config.json")),
    ] = None,
    autotrain: Annotated[
        Path | None,
        typer.Option("--from-autotrain", metavar="FILE", help=_HELP.format("AutoTrain's YAML")),
    ] = None,
    kaito: Annotated[
        Path | None,
        typer.Option("--from-kaito", metavar="FILE", help=_HELP.format("KAITO's Workspace")),
    ] = None,
) -> None:
    """Check a recipe and print it with every field spelt out; or print the JSON Schema.

    Example: burnish recipe my.yaml --from-deepspeed ds_config.json --set train.devices=4
    """
    import yaml

    from burnish import api

    if schema:
        typer.echo(json.dumps(api.recipe(schema=True), indent=2))
        return
    resolved = api.recipe(
        recipe, changes or (), deepspeed=deepspeed, autotrain=autotrain, kaito=kaito
    )
    typer.echo("".join(f"# {note}\n" for note in resolved.notes), nl=False)
    values = resolved.recipe.model_dump(mode="json")
    typer.echo(yaml.safe_dump(values, sort_keys=False), nl=False)
