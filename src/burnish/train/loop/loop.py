"""The one loop: steps, validations, checkpoints. It knows no method and no objective by name."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.core.errors import TrainingStopped
from burnish.core.progress import Bar, progress
from burnish.core.recipe.train import Train
from burnish.core.runs import Run
from burnish.train.batching.sampler import RowGroups, count_steps, rows_of_step
from burnish.train.distributed.process_group import SINGLE, ProcessGroup
from burnish.train.loop.checkpoint import TrainState, prune, save_checkpoint
from burnish.train.loop.peak_memory import release_memory
from burnish.train.loop.trackers import MetricLogger
from burnish.train.optim.adamw import MasterAdamW

#: Hears of each validation (step, loss), and may end the run by raising an error.
OnValidation = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step measured (its `loss` and more), and of how many tokens; 0 if it taught nothing,
    and then weights and moments must not move."""

    metrics: Mapping[str, float]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModule(ABC):
    """What the loop needs of a training, whatever it learns."""

    model: Any
    optimizer: MasterAdamW
    rows: Sequence[Any]
    validation: Sequence[Any]
    settings: Train
    row_groups: RowGroups = ()
    team: ProcessGroup = SINGLE
    on_validation: OnValidation | None = None
    log_metrics: MetricLogger | None = None

    @abstractmethod
    def training_step(self, rows: Sequence[Any], step: int) -> StepResult:
        """Gradients of optimizer step `step` (from 0)."""

    @abstractmethod
    def validation_step(self, rows: Sequence[Any]) -> dict[str, float]:
        """The same means over rows from which nothing is learnt."""

    def rows_for_step(self, step: int) -> list[Any]:
        """What optimizer step `step` (from 0) learns from."""
        return rows_of_step(self.rows, step, self.settings, self.row_groups)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return count_steps(len(self.rows), self.settings)

    @property
    def validate_every(self) -> int:
        """Optimizer steps between validations; twice an epoch unless the recipe says."""
        twice = math.ceil(len(self.rows) / self.settings.batch_size / 2)
        return self.settings.evaluate_every or max(min(twice, self.steps), 1)


def fit(plan: TrainingModule, run: Run, state: TrainState) -> TrainState:
    """Train from `state` to the end, or until validation no longer falls.

    Leaves metrics and checkpoints in the run. Raises TrainingStopped when a loss isn't a number.
    """
    with progress("Fine-tuning", total=plan.steps) as bar:
        bar.advance(state.step)
        while state.step < plan.steps and not state.stopped:
            _run_step(plan, run, state, bar)
        if not state.stopped:
            state.stopped = "all steps done"
    return state


def _run_step(plan: TrainingModule, run: Run, state: TrainState, bar: Bar) -> None:
    """One optimizer step, with the validation and the checkpoint that fall due after it."""
    begun = time.perf_counter()
    plan.team.reseed(plan.settings.seed, state.step)
    rows = plan.rows_for_step(state.step)
    apply_step(plan, run, state, plan.training_step(rows, state.step), begun, bar)


def apply_step(
    plan: TrainingModule, run: Run, state: TrainState, learnt: StepResult, begun: float, bar: Bar
) -> bool:
    """Update the weights by what a step has learnt since `begun` (seconds), validate, and keep a
    checkpoint, as far as that falls due. Returns whether one was kept.

    Raises TrainingStopped when a loss isn't a number.
    """
    means, tokens = learnt.metrics, learnt.tokens
    norm = plan.optimizer.clip()
    _check_finite(state.step + 1, means["loss"], norm)
    rate = plan.optimizer.step(state.step) if tokens else plan.optimizer.learning_rate(state.step)
    seconds = time.perf_counter() - begun
    state.step, state.tokens = state.step + 1, state.tokens + tokens
    state.seconds += seconds
    measured = {**means, "learning_rate": rate, "grad_norm": norm, "tokens": tokens}
    _log(plan, run, state.step, {**measured, "seconds": round(seconds, 4)})
    bar.advance(note=f"{_format_metrics(means)}, {tokens / seconds:.0f} tokens/s")
    done = time.perf_counter()
    last = state.step == plan.steps
    validates = bool(plan.validation) and (last or state.step % plan.validate_every == 0)
    if validates:
        _validate(plan, run, state, bar)
    due = bool(validates or last or state.stopped or _checkpoint_is_due(state.step, plan.settings))
    if due:
        save_and_prune(plan, run, state)
    state.other_seconds += time.perf_counter() - done
    return due


def save_and_prune(plan: TrainingModule, run: Run, state: TrainState) -> None:
    """A checkpoint, and those that are too old removed; all processes bring their parts."""
    if not plan.validation:
        state.best_step = state.step
    # What the step has freed would stand beside the copy that is written.
    release_memory()
    tensors = plan.optimizer.state_tensors()
    if plan.team.is_main:
        save_checkpoint(run.path / "checkpoints", state, tensors)
        kept = plan.settings
        prune(run.path / "checkpoints", kept.keep_checkpoints, kept.keep_every)


def _format_metrics(means: Mapping[str, float]) -> str:
    """What a person watches fall, or rise."""
    return f"reward {means['reward']:.3f}" if "reward" in means else f"loss {means['loss']:.3f}"


def _log(plan: TrainingModule, run: Run, step: int, numbers: Mapping[str, float]) -> None:
    if not plan.team.is_main:
        return
    run.metrics.write(step=step, **numbers)
    if plan.log_metrics:
        plan.log_metrics(step, numbers)


def _checkpoint_is_due(step: int, settings: Train) -> bool:
    rhythms = (settings.checkpoint_every, settings.keep_every)
    return any(every and step % every == 0 for every in rhythms)


def _validate(plan: TrainingModule, run: Run, state: TrainState, bar: Bar) -> None:
    """Validate; remember the best; stop when it hasn't come back for `patience` validations."""
    means = plan.validation_step(plan.validation)
    loss = means["loss"]
    _check_finite(state.step, loss)
    named = {f"validation_{name}": mean for name, mean in means.items()}
    _log(plan, run, state.step, named)
    bar.advance(0, note=f"validation {_format_metrics(means)}")
    if plan.on_validation:
        plan.on_validation(state.step, loss)
    if loss < state.best_loss:
        state.best_loss, state.best_step, state.waited = loss, state.step, 0
        return
    state.waited += 1
    if plan.settings.patience and state.waited >= plan.settings.patience:
        state.stopped = f"validation loss rose {state.waited} times; step {state.best_step} is best"


def _check_finite(step: int, *numbers: float) -> None:
    """Raises TrainingStopped if a loss or a gradient's norm isn't a number any more."""
    if not all(math.isfinite(number) for number in numbers):
        raise TrainingStopped(
            f"The loss or its gradient is no longer a number at step {step}; the last checkpoint "
            "is from before.",
            "Start again with half the train.learning_rate, or with model.dtype=float32.",
        )
