"""`burnish recipe`: print the schema, or a recipe with every field spelt out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import Changes, Recipe

if TYPE_CHECKING:
    from burnish.core.recipe import Recipe as Whole


def command(
    recipe: Recipe = None,
    changes: Changes = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema.")] = False,
    deepspeed: Annotated[
        Path | None,
        typer.Option(
            "--from-deepspeed",
            metavar="FILE",
            help="Take what a ds_config.json says; what is otherwise here is said in comments.",
        ),
    ] = None,
) -> None:
    """Check a recipe and print it with every field spelt out; or print the JSON Schema.

    Example: burnish recipe my.yaml --from-deepspeed ds_config.json --set train.devices=4
    """
    import yaml

    from burnish.core.deepspeed import read_deepspeed
    from burnish.core.recipe import recipe_schema

    if schema:
        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    wanted = changes or []
    if deepspeed:
        meant = read_deepspeed(deepspeed)
        asked = _read(recipe, [*meant.changes, *wanted]).train
        wanted = [*meant.changes, *meant.dependent(asked), *wanted]
        typer.echo("".join(f"# {note}\n" for note in meant.notes), nl=False)
    resolved = _read(recipe, wanted)
    typer.echo(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False), nl=False)


def _read(recipe: Path | None, changes: list[str]) -> "Whole":
    from burnish.core.recipe import load_recipe, make_recipe

    return load_recipe(recipe, changes) if recipe else make_recipe({}, changes)
