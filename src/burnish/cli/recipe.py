"""`burnish recipe`: print the schema, or a recipe with every field spelt out."""

import json
from typing import Annotated

import typer

from burnish.cli.options import Changes, Recipe


def command(
    recipe: Recipe = None,
    changes: Changes = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema.")] = False,
) -> None:
    """Check a recipe and print it with every field spelt out; or print the JSON Schema."""
    import yaml

    from burnish.core.recipe import load_recipe, make_recipe, recipe_schema

    if schema:
        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    resolved = load_recipe(recipe, changes or ()) if recipe else make_recipe({}, changes or ())
    typer.echo(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False), nl=False)
