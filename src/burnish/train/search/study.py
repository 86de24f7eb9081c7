"""Optuna's study of one search: the next trial, and whether a trial should be pruned.

One process asks and tells; others only train. The study is a journal that survives the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.errors import BurnishError, TrainingStopped, Unavailable
from burnish.core.recipe.search import Search

Settings = Mapping[str, Any]


class Pruned(BurnishError):
    """A trial fell behind the others and was stopped."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: its number from 1, Optuna's own trial, and the settings to try."""

    number: int
    optuna_trial: Any
    settings: Settings

    def report(self, step: int, loss: float) -> None:
        """Report a validation to Optuna. Raises Pruned if the trial has fallen behind."""
        self.optuna_trial.report(loss, step)
        if self.optuna_trial.should_prune():
            raise Pruned(f"Pruned at step {step}.")


class Study:
    """The trials of one search, across restarts."""

    def __init__(self, name: str, journal: Path, settings: Search) -> None:
        self.optuna = _import_optuna()
        self.settings = settings
        samplers: dict[str, Any] = {
            "tpe": self.optuna.samplers.TPESampler,
            "random": self.optuna.samplers.RandomSampler,
        }
        pruners = self.optuna.pruners
        backend = self.optuna.storages.journal.JournalFileBackend(str(journal))
        self.study = self.optuna.create_study(
            study_name=name,
            load_if_exists=True,
            storage=self.optuna.storages.JournalStorage(backend),
            pruner=pruners.MedianPruner() if settings.prune else pruners.NopPruner(),
        )
        # A resumed search must not draw the first samples again.
        finished = len(self.study.get_trials())
        self.study.sampler = samplers[settings.sampler](seed=settings.seed + finished)
        for trial in self.study.get_trials(states=[self.optuna.trial.TrialState.RUNNING]):
            # The process died during this trial; its settings come first now.
            self.study.enqueue_trial(trial.params)
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)

    def ask(self) -> Trial | None:
        """Return the next trial; None when all trials have ended or are running."""
        state = self.optuna.trial.TrialState
        counted = [state.COMPLETE, state.PRUNED, state.RUNNING]
        before = len(self.study.get_trials(states=counted))
        if before >= self.settings.trials:
            return None
        trial = self.study.ask()
        settings = {
            field: value
            for field, values in self.settings.space.items()
            if (value := _suggest(trial, field, values)) is not None
        }
        return Trial(before + 1, trial, settings)

    def tell(self, trial: Trial, loss: float | None) -> None:
        """End the trial with its loss; None if it was pruned or failed."""
        state = self.optuna.trial.TrialState
        if loss is None:
            self.study.tell(trial.optuna_trial, state=state.PRUNED)
        else:
            self.study.tell(trial.optuna_trial, loss)

    @property
    def best(self) -> Settings:
        """The settings of the lowest loss. Raises TrainingStopped if no trial was completed."""
        state = self.optuna.trial.TrialState
        if not self.study.get_trials(states=[state.COMPLETE]):
            raise TrainingStopped(
                "No trial was completed.", "Read the trials' folders; narrow search.space."
            )
        return dict(self.study.best_params)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """All trials: settings, loss (None if it has none), and Optuna's final state."""
        return [
            {"settings": trial.params, "loss": trial.value, "ended": trial.state.name.lower()}
            for trial in self.study.get_trials()
        ]


def _suggest(trial: Any, field: str, values: Any) -> Any:
    if isinstance(values, tuple):
        return trial.suggest_categorical(field, list(values))
    suggest = trial.suggest_int if values.is_integer else trial.suggest_float
    return suggest(field, values.low, values.high, log=values.log)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Unavailable("A search needs Optuna.", "pip install 'burnish[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
