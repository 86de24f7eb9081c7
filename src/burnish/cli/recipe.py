"""`burnish recipe`: print the schema, or a recipe with every field spelt out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import Changes, RecipeFile

if TYPE_CHECKING:
    from burnish.core.recipe.recipe import Recipe as Whole

_HELP = "Take what {} says; what is otherwise here is said in comments."


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

    from burnish.compat.autotrain import read_autotrain
    from burnish.compat.deepspeed import read_deepspeed
    from burnish.compat.kaito import read_kaito
    from burnish.core.recipe.recipe import recipe_schema

    if schema:
        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    wanted = changes or []
    files = ((deepspeed, read_deepspeed), (autotrain, read_autotrain), (kaito, read_kaito))
    for file, read in files:
        if file:
            meant = read(file)
            asked = _read_recipe(recipe, [*meant.changes, *wanted]).train
            wanted = [*meant.changes, *meant.dependent(asked), *wanted]
            typer.echo("".join(f"# {note}\n" for note in meant.notes), nl=False)
    resolved = _read_recipe(recipe, wanted)
    typer.echo(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False), nl=False)


def _read_recipe(recipe: Path | None, changes: list[str]) -> "Whole":
    from burnish.core.recipe.recipe import load_recipe, make_recipe

    return load_recipe(recipe, changes) if recipe else make_recipe({}, changes)
