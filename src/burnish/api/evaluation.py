"""Measure models: `evaluate`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from burnish.api.inputs import RecipeInputs, Source, as_changes, resolve
from burnish.preflight import check_inputs, load_rows

if TYPE_CHECKING:
    from burnish.compare.run import Comparison
    from burnish.evaluate.run import Evaluation


def compare(
    recipe: Source | None = None,
    out: Path | None = None,
    seeds: int | None = None,
    **inputs: Unpack[RecipeInputs],
) -> Comparison:
    """Measure every route on the same frozen test split and say which to take.

    `seeds` is the number of trainings of the judged route. Raises BadData, BadRecipe, NotFound
    before anything is trained.
    """
    inputs["changes"] = [*as_changes({"compare.seeds": seeds}), *inputs.get("changes", ())]
    resolved = check_inputs(resolve(recipe, **inputs))
    dataset = load_rows(resolved)
    from burnish.compare.run import compare as compare_routes

    return compare_routes(resolved, dataset, out)


def evaluate(
    recipe: Source | None = None,
    source: str | None = None,
    out: Path | None = None,
    **inputs: Unpack[RecipeInputs],
) -> Evaluation:
    """Measure one model or run, by default the base, on the frozen test split of a recipe."""
    resolved = check_inputs(resolve(recipe, **inputs), source)
    from burnish.evaluate.run import evaluate_source

    return evaluate_source(resolved, source, out)
