"""Optuna's study of one search: what to try next, and which trial has fallen behind.

One process asks and tells; others only train. The study is a journal that survives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.errors import BurnishError, TrainingStopped, Unavailable
from burnish.core.recipe.search import Search

Settings = Mapping[str, Any]


class Pruned(BurnishError):
    """A trial fell behind the others and was given up."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: the settings to try, and what has become of them so far."""

    number: int
    optuna_trial: Any
    settings: Settings

    def report(self, step: int, loss: float) -> None:
        """Hear of a validation. Raises Pruned if the trial has fallen behind."""
        self.optuna_trial.report(loss, step)
        if self.optuna_trial.should_prune():
            raise Pruned(f"Given up at step {step}.")


class Study:
    """The trials of one search, from all its lives."""

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
        # A search that goes on draws on, and not the first draws again.
        begun = len(self.study.get_trials())
        self.study.sampler = samplers[settings.sampler](seed=settings.seed + begun)
        for trial in self.study.get_trials(states=[self.optuna.trial.TrialState.RUNNING]):
            # The process died in the middle of it; its settings come first now.
            self.study.enqueue_trial(trial.params)
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)

    def ask(self) -> Trial | None:
        """The next trial; None when as many as were asked for have ended or are at work."""
        state = self.optuna.trial.TrialState
        counted = [state.COMPLETE, state.PRUNED, state.RUNNING]
        before = len(self.study.get_trials(states=counted))
        if before >= self.settings.trials:
            return None
        trial = self.study.ask()
        settings = {
            field: value
            for field, room in self.settings.space.items()
            if (value := _suggest(trial, field, room)) is not None
        }
        return Trial(before + 1, trial, settings)

    def tell(self, attempt: Trial, outcome: float | None) -> None:
        """End the trial with its loss; None if it was given up."""
        state = self.optuna.trial.TrialState
        if outcome is None:
            self.study.tell(attempt.optuna_trial, state=state.PRUNED)
        else:
            self.study.tell(attempt.optuna_trial, outcome)

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


def _suggest(trial: Any, field: str, room: Any) -> Any:
    if isinstance(room, tuple):
        return trial.suggest_categorical(field, list(room))
    draw = trial.suggest_int if room.is_integer else trial.suggest_float
    return draw(field, room.low, room.high, log=room.log)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Unavailable("A search needs Optuna.", "pip install 'burnish[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
