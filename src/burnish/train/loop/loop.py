"""The training loop: steps, validations, checkpoints. It knows no method and no objective."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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

ExampleT = TypeVar("ExampleT")

#: Called after each validation with (step, loss); it ends the run by raising an error.
OnValidation = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class StepResult:
    """The metrics of a step (its `loss` and more) and the tokens that it learned from.

    With 0 tokens there are no gradients, and neither weights nor moments may move.
    """

    metrics: Mapping[str, float]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModule(ABC, Generic[ExampleT]):
    """A model in training with its optimizer and examples: all that the loop needs."""

    model: Any
    optimizer: MasterAdamW
    rows: Sequence[ExampleT]
    validation: Sequence[ExampleT]
    settings: Train
    row_groups: RowGroups = ()
    process_group: ProcessGroup = SINGLE
    on_validation: OnValidation | None = None
    log_metrics: MetricLogger | None = None

    @abstractmethod
    def training_step(self, rows: Sequence[ExampleT], step: int) -> StepResult:
        """Compute the gradients of optimizer step `step` (from 0)."""

    @abstractmethod
    def validation_step(self, rows: Sequence[ExampleT]) -> dict[str, float]:
        """Return the `loss` and other metrics of `rows`, without gradients."""

    def roll_back(self, step: int) -> None:
        """Forget what is kept of steps from `step` on, which will be repeated."""

    def rows_for_step(self, step: int) -> list[ExampleT]:
        """Return the rows of optimizer step `step` (from 0)."""
        return rows_of_step(self.rows, step, self.settings, self.row_groups)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return count_steps(len(self.rows), self.settings)

    @property
    def validate_every(self) -> int:
        """Optimizer steps between validations; twice an epoch unless the recipe says."""
        half_epoch = math.ceil(len(self.rows) / self.settings.batch_size / 2)
        return self.settings.evaluate_every or max(min(half_epoch, self.steps), 1)


def fit(module: TrainingModule, run: Run, state: TrainState) -> TrainState:
    """Train from `state` to the last step, or until the validation loss no longer falls.

    Leaves metrics and checkpoints in the run. Raises TrainingStopped when a loss isn't finite.
    """
    with progress("Fine-tuning", total=module.steps) as bar:
        bar.advance(state.step)
        while state.step < module.steps and not state.stopped:
            _run_step(module, run, state, bar)
        if not state.stopped:
            state.stopped = "all steps done"
    return state


def _run_step(module: TrainingModule, run: Run, state: TrainState, bar: Bar) -> None:
    """Do one optimizer step, with the validation and the checkpoint that are due after it."""
    begun = time.perf_counter()
    module.process_group.reseed(module.settings.seed, state.step)
    rows = module.rows_for_step(state.step)
    apply_step(module, run, state, module.training_step(rows, state.step), begun, bar)


def apply_step(
    module: TrainingModule, run: Run, state: TrainState, result: StepResult, begun: float, bar: Bar
) -> bool:
    """Update the weights by the gradients of a step that began at `begun` (seconds); validate and
    save a checkpoint where they are due. Returns True if a checkpoint was saved.

    Raises TrainingStopped when a loss isn't finite.
    """
    metrics, tokens = result.metrics, result.tokens
    norm = module.optimizer.clip()
    _check_finite(state.step + 1, metrics["loss"], norm)
    # Without tokens there is nothing to update by.
    update = module.optimizer.step if tokens else module.optimizer.learning_rate
    rate = update(state.step)
    seconds = time.perf_counter() - begun
    state.step, state.tokens = state.step + 1, state.tokens + tokens
    state.seconds += seconds
    logged = {**metrics, "learning_rate": rate, "grad_norm": norm, "tokens": tokens}
    _log(module, run, state.step, {**logged, "seconds": round(seconds, 4)})
    bar.advance(note=f"{_format_metrics(metrics)}, {tokens / seconds:.0f} tokens/s")
    step_end = time.perf_counter()
    is_last = state.step == module.steps
    validates = bool(module.validation) and (is_last or state.step % module.validate_every == 0)
    if validates:
        _validate(module, run, state, bar)
    saves = bool(
        validates or is_last or state.stopped or _checkpoint_is_due(state.step, module.settings)
    )
    if saves:
        save_and_prune(module, run, state)
    state.other_seconds += time.perf_counter() - step_end
    return saves


def save_and_prune(module: TrainingModule, run: Run, state: TrainState) -> None:
    """Save a checkpoint and delete those that are too old; every process brings its shard."""
    if not module.validation:
        state.best_step = state.step
    # Memory that the step has freed would stay beside the copy that is written.
    release_memory()
    tensors = module.optimizer.state_tensors()
    if module.process_group.is_main:
        folder, settings = run.path / "checkpoints", module.settings
        save_checkpoint(folder, state, tensors)
        prune(folder, settings.keep_checkpoints, settings.keep_every)


def _format_metrics(metrics: Mapping[str, float]) -> str:
    """Return the one metric that a person watches."""
    name = "reward" if "reward" in metrics else "loss"
    return f"{name} {metrics[name]:.3f}"


def _log(module: TrainingModule, run: Run, step: int, metrics: Mapping[str, float]) -> None:
    if not module.process_group.is_main:
        return
    run.metrics.write(step=step, **metrics)
    if module.log_metrics:
        module.log_metrics(step, metrics)


def _checkpoint_is_due(step: int, settings: Train) -> bool:
    intervals = (settings.checkpoint_every, settings.keep_every)
    return any(every and step % every == 0 for every in intervals)


def _validate(module: TrainingModule, run: Run, state: TrainState, bar: Bar) -> None:
    """Validate; remember the best step; stop after `patience` validations without a better one."""
    metrics = module.validation_step(module.validation)
    loss = metrics["loss"]
    _check_finite(state.step, loss)
    _log(module, run, state.step, {f"validation_{name}": mean for name, mean in metrics.items()})
    bar.advance(0, note=f"validation {_format_metrics(metrics)}")
    if module.on_validation:
        module.on_validation(state.step, loss)
    if loss < state.best_loss:
        state.best_loss, state.best_step, state.waited = loss, state.step, 0
        return
    state.waited += 1
    if module.settings.patience and state.waited >= module.settings.patience:
        state.stopped = f"validation loss rose {state.waited} times; step {state.best_step} is best"


def _check_finite(step: int, *numbers: float) -> None:
    """Raise TrainingStopped if a loss or the norm of a gradient isn't finite."""
    if not all(math.isfinite(number) for number in numbers):
        raise TrainingStopped(
            f"The loss or its gradient is no longer a finite number at step {step}; the last "
            "checkpoint is from before.",
            "Start again with half the train.learning_rate, or with model.dtype=float32.",
        )
