"""`burnish train --search`: which settings suit these rows, by validation loss.

Trials are chosen by Optuna (Akiba et al. 2019, arXiv:1907.10902) and stopped early when they fall
behind the median of the others. Each is a whole training run in its own folder; the study is a
journal beside them. A search that was killed is repeated by the same command: what has ended is
not trained again, and the trial that was under way is resumed.
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
from burnish.models.local_models import find_model
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
    """The settings that were best, and what they give with several seeds.

    `losses` are the best validation losses (nats a learnt token) of the same settings, by seed; the
    artifact is that of the recipe's own seed, not of the luckiest. `trials` are all that were
    tried.
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
        """The shape that `burnish train --search --json` prints."""
        return {**asdict(self), "spread": self.spread}


def search(recipe: Recipe, dataset: Dataset | None = None, out: Path | None = None) -> SearchReport:
    """Try `search.trials` settings, then train the best with `search.seeds` seeds.

    Raises BadRecipe before the first trial if the space names no field of a recipe, or if there are
    no validation rows to judge by; Unavailable without Optuna.
    """
    _check_space(recipe)
    dataset = dataset or load(recipe)
    if not dataset.split.validation:
        raise BadRecipe(
            "A search needs validation rows to judge by.",
            "Name a file in data.validation, or raise data.validation_share.",
        )
    base = find_model(recipe.model.name)
    inputs = {"data": dict(dataset.hashes), "base": base.identity}
    run = reopen_or_new_run("search", recipe, inputs, out)
    chosen = recipe.search
    with run.lock(), progress("Search", chosen.trials + chosen.seeds) as bar:
        study = Study(run.id, run.path / "study.jsonl", chosen)
        train_all = _make_runner(chosen, dataset, run)
        for ended in train_all(_propose_trials(run, recipe, study)):
            _record_result(study, ended)
            bar.advance()
        best = study.best
        say(f"Best: {_format_settings(best)}")
        losses: dict[int, float] = {}
        for ended in train_all(_repeat_with_seeds(run, recipe, best)):
            if ended.fault:
                raise ended.fault
            losses[ended.task.recipe.train.seed] = ended.loss or 0.0
            if ended.task.recipe.train.seed == recipe.train.seed:
                _copy_artifact(run, ended.task)
            bar.advance()
        losses = dict(sorted(losses.items()))
        report = SearchReport(run.id, str(run.artifact), best, losses, study.trials)
        write_json(run.path / "report.json", report.as_dict())
    return report


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with these fields changed. Raises BadRecipe for a field that there isn't."""
    changes = [f"{field}={json.dumps(value)}" for field, value in settings.items()]
    return make_recipe(recipe.model_dump(mode="json"), changes)


def _make_runner(chosen: Search, dataset: Dataset, run: Run) -> TrialRunner:
    """Who trains. Raises Unavailable if it can't be reached."""
    if chosen.parallel == 1 and not chosen.executor:
        return SerialTrials(dataset)
    # Several processes on one machine share its cores.
    here = LocalExecutor(threads=max(1, torch.get_num_threads() // chosen.parallel))
    away = chosen.executor and open_executor(chosen.executor, chosen.executor_cpus)
    executor = away or here
    executor.check()
    return ParallelTrials(executor, chosen.parallel, run.path / "processes")


def _propose_trials(run: Run, recipe: Recipe, study: Study) -> Iterator[TrialTask]:
    """Each trial, chosen when it is asked for."""
    while attempt := study.ask():
        say(
            f"Trial {attempt.number} of {recipe.search.trials}: "
            f"{_format_settings(attempt.settings)}"
        )
        yield _make_task(run, recipe, attempt.settings, attempt)


def _repeat_with_seeds(run: Run, recipe: Recipe, best: Settings) -> Iterator[TrialTask]:
    """The best settings with each seed."""
    for seed in range(recipe.train.seed, recipe.train.seed + recipe.search.seeds):
        yield _make_task(run, recipe, {**best, "train.seed": seed})


def _make_task(
    run: Run, recipe: Recipe, settings: Settings, attempt: Trial | None = None
) -> TrialTask:
    """One training with these settings; the folder's name follows from them."""
    changed = with_settings(recipe, settings)
    own = hash_json(changed.train.model_dump(mode="json"))[:12]
    return TrialTask(changed, run.path / "trials" / own, attempt)


def _record_result(study: Study, ended: TrialResult) -> None:
    """Tell the study of a trial; one that was given up has no loss."""
    attempt = ended.task.trial
    assert attempt
    if ended.fault:
        say(f"Trial {attempt.number}: {ended.fault.what}")
    study.tell(attempt, ended.loss)


def _copy_artifact(run: Run, training: TrialTask) -> None:
    """Copy the model of the recipe's own seed to where the search's is looked for."""
    if not run.artifact.exists():
        with atomic_folder(run.artifact) as draft:
            shutil.copytree(Run(training.folder).artifact, draft, dirs_exist_ok=True)


def _check_space(recipe: Recipe) -> None:
    for field, room in recipe.search.space.items():
        if not isinstance(room, tuple) and (room.low > room.high or (room.log and room.low <= 0)):
            raise BadRecipe(
                f"search.space: `{field}` goes from {room.low} to {room.high}.",
                "Write the smaller end as low; with log both lie above 0.",
            )
        for value in room if isinstance(room, tuple) else (room.low, room.high):
            with_settings(recipe, {field: value})


def _format_settings(settings: Settings) -> str:
    return ", ".join(
        f"{field.rpartition('.')[2]} {value:.3g}" if isinstance(value, float)
        else f"{field.rpartition('.')[2]} {value}"
        for field, value in settings.items()
    )  # fmt: skip
