"""`burnish train --search`: which settings suit these rows, by validation loss.

Trials are chosen by Optuna (Akiba et al. 2019, arXiv:1907.10902) and stopped early when they fall
behind the median of the others. Each is a whole training run in its own folder; the study is a
journal beside them. A search that was killed is repeated by the same command: what has ended is
not trained again, and the trial that was under way is resumed.
"""

import json
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.core.errors import BadRecipe, BurnishError, DoesNotFit, TrainingStopped, Unavailable
from burnish.core.folders import hash_json, whole_folder, write_json
from burnish.core.progress import say
from burnish.core.recipe import Recipe, make_recipe
from burnish.core.runs import Run, begun_or_new_run
from burnish.core.training import Search
from burnish.data.load import Dataset, load
from burnish.models.local import find_model
from burnish.train.report import TrainReport
from burnish.train.run import train_in

Settings = Mapping[str, Any]


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


class Pruned(BurnishError):
    """A trial fell behind the others and was given up."""


def search(recipe: Recipe, out: Path | None = None) -> SearchReport:
    """Try `search.trials` settings, then train the best with `search.seeds` seeds.

    Raises BadRecipe before the first trial if the space names no field of a recipe, or if there are
    no validation rows to judge by; Unavailable without Optuna.
    """
    _refuse_bad_space(recipe)
    dataset = load(recipe)
    if not dataset.split.validation:
        raise BadRecipe(
            "A search needs validation rows to judge by.",
            "Name a file in data.validation, or raise data.validation_share.",
        )
    base = find_model(recipe.model.name)
    inputs = {"data": dict(dataset.hashes), "base": base.identity}
    run = begun_or_new_run("search", recipe, inputs, out)
    with run.held():
        study = _Study(run, recipe.search)
        while (number := study.ended) < recipe.search.trials:
            settings = study.ask()
            say(f"Trial {number + 1} of {recipe.search.trials}: {_told(settings)}")
            study.tell(_outcome(run, recipe, dataset, study, settings))
        best = study.best
        say(f"Best: {_told(best)}")
        reports = {
            seed: _trained(run, recipe, dataset, {**best, "train.seed": seed})
            for seed in range(recipe.train.seed, recipe.train.seed + recipe.search.seeds)
        }
        if not run.artifact.exists():
            with whole_folder(run.artifact) as draft:
                shutil.copytree(reports[recipe.train.seed].artifact, draft, dirs_exist_ok=True)
        losses = {seed: report.best_validation_loss or 0.0 for seed, report in reports.items()}
        report = SearchReport(run.id, str(run.artifact), best, losses, study.trials)
        write_json(run.path / "report.json", report.as_dict())
    return report


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with these fields changed. Raises BadRecipe for a field that there isn't."""
    changes = [f"{field}={json.dumps(value)}" for field, value in settings.items()]
    return make_recipe(recipe.model_dump(mode="json"), changes)


class _Study:
    """Optuna's study of one search, in a journal that survives the process."""

    def __init__(self, run: Run, settings: Search) -> None:
        self.optuna = _optuna()
        self.settings = settings
        samplers: dict[str, Any] = {
            "tpe": self.optuna.samplers.TPESampler,
            "random": self.optuna.samplers.RandomSampler,
        }
        pruners = self.optuna.pruners
        journal = self.optuna.storages.journal
        self.study = self.optuna.create_study(
            study_name=run.id,
            load_if_exists=True,
            storage=self.optuna.storages.JournalStorage(
                journal.JournalFileBackend(str(run.path / "study.jsonl"))
            ),
            pruner=pruners.MedianPruner() if settings.prune else pruners.NopPruner(),
        )
        # A search that goes on draws on, and not the first draws again.
        begun = len(self.study.get_trials())
        self.study.sampler = samplers[settings.sampler](seed=settings.seed + begun)
        for trial in self.study.get_trials(states=[self.optuna.trial.TrialState.RUNNING]):
            # The process died in the middle of it; its settings come first now.
            self.study.enqueue_trial(trial.params)
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        self.trial: Any = None

    def ask(self) -> Settings:
        """The settings to try next."""
        self.trial = self.study.ask()
        return {
            field: value
            for field, room in self.settings.space.items()
            if (value := self._drawn(field, room)) is not None
        }

    def watch(self, step: int, loss: float) -> None:
        """Hear of a validation. Raises Pruned if the trial has fallen behind."""
        self.trial.report(loss, step)
        if self.trial.should_prune():
            raise Pruned(f"Given up at step {step}.")

    def tell(self, outcome: float | None) -> None:
        """End the trial with its loss; None if it was given up."""
        state = self.optuna.trial.TrialState
        if outcome is None:
            self.study.tell(self.trial, state=state.PRUNED)
        else:
            self.study.tell(self.trial, outcome)

    @property
    def ended(self) -> int:
        """Trials that have a result, be it that they were given up."""
        state = self.optuna.trial.TrialState
        return len(self.study.get_trials(states=[state.COMPLETE, state.PRUNED]))

    @property
    def best(self) -> Settings:
        """The settings of the lowest loss. Raises TrainingStopped if no trial came to its end."""
        state = self.optuna.trial.TrialState
        if not self.study.get_trials(states=[state.COMPLETE]):
            raise TrainingStopped(
                "No trial came to its end.", "Look at the trials' folders; narrow search.space."
            )
        return dict(self.study.best_params)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """All trials: settings, loss (None if it has none), and how it ended."""
        return [
            {"settings": trial.params, "loss": trial.value, "ended": trial.state.name.lower()}
            for trial in self.study.get_trials()
        ]

    def _drawn(self, field: str, room: Any) -> Any:
        if isinstance(room, tuple):
            return self.trial.suggest_categorical(field, list(room))
        draw = self.trial.suggest_int if room.whole else self.trial.suggest_float
        return draw(field, room.low, room.high, log=room.log)


def _outcome(
    run: Run, recipe: Recipe, dataset: Dataset, study: _Study, settings: Settings
) -> float | None:
    """The trial's best validation loss; None if it was given up, did not fit, or ran away."""
    try:
        report = _trained(run, recipe, dataset, settings, study)
    except (Pruned, DoesNotFit, TrainingStopped) as fault:
        say(fault.what)
        return None
    return report.best_validation_loss


def _trained(
    run: Run, recipe: Recipe, dataset: Dataset, settings: Settings, study: _Study | None = None
) -> TrainReport:
    """One training with these settings, gone on with if it was begun."""
    changed = with_settings(recipe, settings)
    folder = run.path / "trials" / hash_json(changed.train.model_dump(mode="json"))[:12]
    return train_in(folder, changed, dataset, study.watch if study else None)


def _refuse_bad_space(recipe: Recipe) -> None:
    for field, room in recipe.search.space.items():
        for value in room if isinstance(room, tuple) else (room.low, room.high):
            with_settings(recipe, {field: value})


def _told(settings: Settings) -> str:
    return ", ".join(
        f"{field.rpartition('.')[2]} {value:.3g}" if isinstance(value, float)
        else f"{field.rpartition('.')[2]} {value}"
        for field, value in settings.items()
    )  # fmt: skip


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Unavailable("A search needs Optuna.", "pip install 'burnish[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
