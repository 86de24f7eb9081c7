"""`burnish train --search`: which settings suit these rows, by validation loss.

Optuna (Akiba et al. 2019, arXiv:1907.10902) suggests the trials and prunes those that fall behind
the median of the others. Each trial is a whole training run in its own folder; the study is a
journal beside them. A search that was killed is resumed by the same command: finished trials are
not repeated, and the trial that was under way is resumed.
"""

import json
import shutil
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.core.atomic import atomic_folder, hash_json, write_json
from burnish.core.errors import BadRecipe
from burnish.core.executors.executor import LocalExecutor, open_executor
from burnish.core.progress import progress, say
from burnish.core.recipe.recipe import Recipe, make_recipe
from burnish.core.recipe.search import Search
from burnish.core.runs import Run, reopen_or_new_run
from burnish.data.load import Dataset, load
from burnish.models.local_models import Resolved
from burnish.train.search.executors import (
    ParallelTrials,
    SerialTrials,
    TrialResult,
    TrialRunner,
    TrialTask,
)
from burnish.train.search.study import Settings, Study, Trial


@dataclass(frozen=True, slots=True)
class SearchReport:
    """The best settings, and their losses with several seeds.

    `losses` are the best validation losses (nats a target token) of the same settings, by seed; the
    artifact is that of the recipe's own seed, not of the luckiest one. `trials` are all trials.
    """

    run: str
    artifact: str
    best: Settings
    losses: Mapping[int, float]
    trials: list[dict[str, Any]]

    @property
    def spread(self) -> float:
        """Standard deviation of the losses over seeds; 0 for a single one."""
        return statistics.stdev(self.losses.values()) if len(self.losses) > 1 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish train --search --json` prints."""
        return {**asdict(self), "spread": self.spread}


def search(recipe: Recipe, dataset: Dataset | None = None, out: Path | None = None) -> SearchReport:
    """Try `search.trials` settings, then train the best with `search.seeds` seeds.

    Raises BadRecipe before the first trial if the space names no field of a recipe, or if there are
    no validation rows to compare by; Unavailable without Optuna.
    """
    _check_space(recipe)
    dataset = dataset or load(recipe)
    if not dataset.split.validation:
        raise BadRecipe(
            "A search needs validation rows to compare trials by.",
            "Name a file in data.validation, or raise data.validation_share.",
        )
    base = Resolved.of(recipe).base
    inputs = {"data": dict(dataset.hashes), "base": base.identity}
    run = reopen_or_new_run("search", recipe, inputs, out)
    settings = recipe.search
    with run.lock(), progress("Search", settings.trials + settings.seeds) as bar:
        study = Study(run.id, run.path / "study.jsonl", settings)
        run_trials = _make_runner(settings, dataset, run)
        for result in run_trials(_propose_trials(run, recipe, study)):
            _record_result(study, result)
            bar.advance()
        best = study.best
        say(f"Best: {_format_settings(best)}")
        losses: dict[int, float] = {}
        for result in run_trials(_repeat_with_seeds(run, recipe, best)):
            if result.fault:
                raise result.fault
            seed = result.task.recipe.train.seed
            losses[seed] = result.loss or 0.0
            if seed == recipe.train.seed:
                _copy_artifact(run, result.task)
            bar.advance()
        losses = dict(sorted(losses.items()))
        report = SearchReport(run.id, str(run.artifact), best, losses, study.trials)
        write_json(run.path / "report.json", report.as_dict())
    return report


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe with these fields changed. Raises BadRecipe for an unknown field."""
    changes = [f"{field}={json.dumps(value)}" for field, value in settings.items()]
    return make_recipe(recipe.model_dump(mode="json"), changes)


def _make_runner(settings: Search, dataset: Dataset, run: Run) -> TrialRunner:
    """Return the executor of the trials. Raises Unavailable if it can't be reached."""
    if settings.parallel == 1 and not settings.executor:
        return SerialTrials(dataset)
    # Several processes on one machine share its cores.
    local = LocalExecutor(threads=max(1, torch.get_num_threads() // settings.parallel))
    remote = settings.executor and open_executor(settings.executor, settings.executor_cpus)
    executor = remote or local
    executor.check()
    return ParallelTrials(executor, settings.parallel, run.path / "processes")


def _propose_trials(run: Run, recipe: Recipe, study: Study) -> Iterator[TrialTask]:
    """Yield the trials; each is suggested when it is asked for."""
    while trial := study.ask():
        say(f"Trial {trial.number} of {recipe.search.trials}: {_format_settings(trial.settings)}")
        yield _make_task(run, recipe, trial.settings, trial)


def _repeat_with_seeds(run: Run, recipe: Recipe, best: Settings) -> Iterator[TrialTask]:
    """Yield the best settings with each seed."""
    for seed in range(recipe.train.seed, recipe.train.seed + recipe.search.seeds):
        yield _make_task(run, recipe, {**best, "train.seed": seed})


def _make_task(
    run: Run, recipe: Recipe, settings: Settings, trial: Trial | None = None
) -> TrialTask:
    """Return the task of these settings, in a folder named by their hash."""
    changed = with_settings(recipe, settings)
    name = hash_json(changed.train.model_dump(mode="json"))[:12]
    return TrialTask(changed, run.path / "trials" / name, trial)


def _record_result(study: Study, result: TrialResult) -> None:
    """Tell the study the result of a trial; a pruned one has no loss."""
    trial = result.task.trial
    assert trial
    if result.fault:
        say(f"Trial {trial.number}: {result.fault.what}")
    study.tell(trial, result.loss)


def _copy_artifact(run: Run, task: TrialTask) -> None:
    """Copy the model of the recipe's own seed to the artifact of the search."""
    if not run.artifact.exists():
        with atomic_folder(run.artifact) as draft:
            shutil.copytree(Run(task.folder).artifact, draft, dirs_exist_ok=True)


def _check_space(recipe: Recipe) -> None:
    for field, values in recipe.search.space.items():
        if not isinstance(values, tuple) and (
            values.low > values.high or (values.log and values.low <= 0)
        ):
            raise BadRecipe(
                f"search.space: `{field}` goes from {values.low} to {values.high}.",
                "Write the smaller end as low; with log both ends must be above 0.",
            )
        for value in values if isinstance(values, tuple) else (values.low, values.high):
            with_settings(recipe, {field: value})


def _format_settings(settings: Settings) -> str:
    return ", ".join(
        f"{field.rpartition('.')[2]} {value:.3g}" if isinstance(value, float)
        else f"{field.rpartition('.')[2]} {value}"
        for field, value in settings.items()
    )  # fmt: skip
