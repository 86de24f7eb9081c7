"""What the functions of the API have in common: rows, a model and changes, made into a recipe."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import Recipe, load_recipe, make_recipe, with_absolute_paths
from burnish.core.runs import Run

Source = Path | str


class RecipeInputs(TypedDict, total=False):
    """Rows and a model named directly, beside or instead of a recipe file; `changes` are
    `section.field=value`."""

    train: Sequence[Source]
    validation: Sequence[Source]
    test: Sequence[Source]
    model: str | None
    changes: Iterable[str]


def resolve(recipe: Source | None = None, **inputs: Unpack[RecipeInputs]) -> Recipe:
    """Return the recipe that a file, or rows and a model named directly, mean.

    Raises BadRecipe if it can't be understood or names no rows.
    """
    values = (load_recipe(Path(recipe)) if recipe else Recipe()).model_dump(mode="json")
    for name in ("train", "validation", "test"):
        paths: Sequence[Source] = inputs.get(name) or ()  # type: ignore[assignment]
        if paths:
            values["data"][name] = [str(Path(path).absolute()) for path in paths]
    if model := inputs.get("model"):
        values["model"]["name"] = model
    resolved = with_absolute_paths(make_recipe(values, inputs.get("changes") or ()), Path.cwd())
    if not resolved.data.train and not resolved.data.test:
        raise BadRecipe(
            "No data is named.", "Give a recipe, or files: --train rows.jsonl --test more.jsonl"
        )
    return resolved


def changed_recipe(run: Run, options: Mapping[str, Any], changes: Iterable[str] = ()) -> Recipe:
    """Return a run's recipe with `options` (dotted key → value; None leaves it) and `changes`."""
    return make_recipe(run.recipe.model_dump(mode="json"), [*as_changes(options), *changes])


def as_changes(options: Mapping[str, Any]) -> list[str]:
    """Return `key=value` for each option that is given."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]
