"""Resuming a run: check that its inputs are the same, and go back to its last checkpoint."""

import shutil
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import BadData
from burnish.core.journal import read_journal, rewrite_journal
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import Run
from burnish.train.loop.checkpoint import TrainState, last_checkpoint
from burnish.train.loop.loop import TrainingModule


def reopen_run(folder: Path, recipe: Recipe, inputs: dict[str, Any]) -> Run:
    """Return the run to resume. Raises BadData if its inputs have changed since it began."""
    run = Run(folder.absolute())
    before = run.read("inputs.json")
    unchanged = {name: before.get(name) == value for name, value in inputs.items()}
    unchanged["recipe"] = _fixed_settings(run.recipe) == _fixed_settings(recipe)
    for name, is_same in unchanged.items():
        if not is_same:
            raise BadData(
                f"The {name} of {run.id} has changed since the run began.",
                "Put back what it began with, or start a new run.",
            )
    return run


def _fixed_settings(recipe: Recipe) -> tuple[Any, Any]:
    """Return the settings that a resumed run must not change; its number of processes may."""
    train = recipe.train.model_dump(exclude={"parallel", "devices", "threads"})
    return train, recipe.model


def resume(run: Run, module: TrainingModule) -> TrainState | None:
    """Restore the last whole checkpoint, in all processes. Returns its state, None without one."""
    checkpoint = roll_back(run, module) if module.process_group.is_main else None
    state, tensors = checkpoint or (None, {})
    state = module.process_group.broadcast(state)
    if state is None:
        return None
    module.optimizer.restore(tensors)
    say(f"Resuming {run.id} after step {state.step} of {module.steps}")
    return state


def roll_back(
    run: Run, module: TrainingModule
) -> tuple[TrainState, dict[str, torch.Tensor]] | None:
    """Remove from the run all that came after its last whole checkpoint, which is returned."""
    for draft in [*run.path.glob(".*"), *run.path.glob("checkpoints/.*")]:
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    checkpoint = last_checkpoint(run.path / "checkpoints")
    step = checkpoint[0].step if checkpoint else 0
    metrics = run.path / "metrics.jsonl"
    rewrite_journal(metrics, [entry for entry in read_journal(metrics) if entry["step"] <= step])
    module.roll_back(step)
    return checkpoint
