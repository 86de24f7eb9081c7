"""The verbs for several adapters of one base, as functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import load_recipe
from burnish.train.adapters.merge import MergeOptions, merge

if TYPE_CHECKING:
    from burnish.export.multi_adapter import MultiAdapterExport
    from burnish.train.report import TrainReport

__all__ = ["MergeOptions", "export_switchable", "merge", "train_together"]


def export_switchable(
    runs: Sequence[str],
    quant: str = "auto",
    out: Path | None = None,
    changes: Iterable[str] = (),
) -> MultiAdapterExport:
    """Write LoRA runs of one base as one ONNX folder, whose adapters are switched a request, and
    ask each its own test split; `changes` are of every run's recipe.

    Raises CannotExport, BadData, BadRecipe, AlreadyThere, AdaptersMix before anything is left.
    """
    from burnish.core.runs import find_run
    from burnish.export.multi_adapter import export_multi_adapter as export_runs

    return export_runs([find_run(run) for run in runs], quant, out, changes)


def train_together(
    recipes: Sequence[Path], out: Path, changes: Iterable[str] = ()
) -> list[TrainReport]:
    """Train an adapter a recipe, all on one base in memory, each in the folder of its recipe's name
    in `out`; called again, it goes on with what was begun there.

    Raises BadRecipe for recipes that can't be trained together, and what `api.train` raises.
    """
    settings = list(changes)
    named = {path.stem: load_recipe(path, settings) for path in recipes}
    if len(named) < len(recipes):
        raise BadRecipe(
            "Two recipes have the same file name, and their runs would have the same folder.",
            "Rename one of them.",
        )
    from burnish.train.multi_lora.run import train_together as train_adapters

    return train_adapters(named, out)
