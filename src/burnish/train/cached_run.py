"""Training runs that are found again: a comparison or a distillation trains each model once.

The run's name is a hash of all that the weights depend on. So a comparison that was killed resumes
its training, and a second one with the same data and settings trains nothing.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from burnish.core.atomic import hash_file, hash_json
from burnish.core.progress import say
from burnish.core.recipe.objectives import Classify, Distillation, Grpo
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.rewards import ModelReward
from burnish.core.runs import Run, runs_folder
from burnish.data.duplicates import content_hash
from burnish.data.load import Dataset
from burnish.models.find_artifact import hash_weights
from burnish.models.local_models import ARTIFACT_FILE, Resolved
from burnish.train.forecast.auto_method import resolve_auto_method
from burnish.train.run import train, user_code_files

#: Incremented when the same settings lead to other weights, by another default or another loop.
_VERSION = 3


def train_cached(recipe: Recipe, dataset: Dataset) -> Run:
    """Return the finished run of this recipe and this data, which is trained if there is none."""
    resolved = Resolved.of(recipe)
    recipe = resolve_auto_method(resolved)
    run = Run(cached_run_folder(replace(resolved, recipe=recipe), dataset))
    if (run.artifact / ARTIFACT_FILE).exists():
        say(f"Fine-tuning: done by an earlier run ({run.id}).")
        return run
    if _can_resume(run, recipe, dataset):
        train(recipe, dataset, resume=run.path)
    else:
        shutil.rmtree(run.path, ignore_errors=True)
        train(recipe, dataset, out=run.path)
    return run


def _can_resume(run: Run, recipe: Recipe, dataset: Dataset) -> bool:
    """Return True if the unfinished run was begun from the same files and model, by these names."""
    inputs = run.read("inputs.json")
    return inputs.get("data") == dict(dataset.hashes) and run.recipe.model == recipe.model


def cached_run_folder(resolved: Resolved, dataset: Dataset) -> Path:
    """Return the folder of the run of this recipe and this data, whether it exists or not."""
    recipe = resolved.recipe
    rows = [
        [content_hash(row) for row in part]
        for part in (dataset.split.train, dataset.split.validation)
    ]
    # Defaults are left out: a field that a later version adds doesn't change the hash. So is the
    # tracker, which changes no weight.
    settings = recipe.train.model_dump(mode="json", exclude_defaults=True, exclude={"tracker"})
    kinds = [recipe.train.objective.kind, recipe.train.method.kind]
    objective = recipe.train.objective
    sources = [hash_weights(name) for name in _source_models(objective)]
    sources += [hash_file(file) for file in user_code_files(objective).values()]
    if isinstance(objective, Grpo):
        sources.append(hash_json([repr(sorted(row.item.items())) for row in dataset.split.train]))
    # The artifact has the task in it: labels that no row has, for one.
    task = dataset.task.model_dump(mode="json", exclude_defaults=True)
    weights = [recipe.model.dtype, resolved.base.sha256, *sources]
    key = hash_json([_VERSION, rows, task, kinds, settings, *weights])
    return runs_folder() / f"train-{key[:12]}"


def _source_models(objective: object) -> list[str]:
    """Return the names of the other models that a training learns from: teacher, reward model."""
    if isinstance(objective, Distillation):
        return [objective.teacher] if objective.teacher else []
    if isinstance(objective, Classify):
        return [objective.teacher] if objective.teacher else []
    if isinstance(objective, Grpo) and isinstance(objective.reward, ModelReward):
        return [objective.reward.run]
    return []
