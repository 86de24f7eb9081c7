"""Going on with a run: whether it is the same one, and from where."""

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
from burnish.train.loop.language_model import LanguageModelModule
from burnish.train.loop.loop import TrainingModule


def reopen_run(folder: Path, recipe: Recipe, inputs: dict[str, Any]) -> Run:
    """The run to go on with. Raises BadData if what went into it has changed since it began."""
    run = Run(folder.absolute())
    before = run.read("inputs.json")
    same = {name: before.get(name) == given for name, given in inputs.items()}
    same["recipe"] = _fixed_settings(run.recipe) == _fixed_settings(recipe)
    for name, is_same in same.items():
        if not is_same:
            raise BadData(
                f"The {name} of {run.id} has changed since the run began.",
                "Put back what it began with, or start a new run.",
            )
    return run


def _fixed_settings(recipe: Recipe) -> tuple[Any, Any]:
    """What must stay as it was; how many processes share the work may change."""
    train = recipe.train.model_dump(exclude={"parallel", "devices", "threads"})
    return train, recipe.model


def resume(run: Run, plan: TrainingModule) -> TrainState | None:
    """Go back to the last whole checkpoint; forget what was half-written or measured after it."""
    state, tensors = (roll_back(run, plan) if plan.team.is_main else None) or (None, {})
    state = plan.team.broadcast(state)
    if state is None:
        return None
    plan.optimizer.restore(tensors)
    say(f"Going on with {run.id} after step {state.step} of {plan.steps}")
    return state


def roll_back(run: Run, plan: TrainingModule) -> tuple[TrainState, dict[str, torch.Tensor]] | None:
    """The run's last whole checkpoint, with all that came after it removed."""
    for draft in [*run.path.glob(".*"), *run.path.glob("checkpoints/.*")]:
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    found = last_checkpoint(run.path / "checkpoints")
    step = found[0].step if found else 0
    metrics = run.path / "metrics.jsonl"
    kept = [entry for entry in read_journal(metrics) if entry["step"] <= step]
    rewrite_journal(metrics, kept)
    if isinstance(plan, LanguageModelModule) and plan.example_source:
        plan.example_source.roll_back(step)
    return found
