"""The one loop: steps, validations, checkpoints. It knows no method and no objective by name."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from burnish.core.errors import TrainingStopped
from burnish.core.progress import Bar, progress
from burnish.core.runs import Run
from burnish.core.sections import Train
from burnish.models.chat import Encoded
from burnish.train.batches import count_steps, micro_batches, rows_of_step
from burnish.train.checkpoint import State, prune, save_checkpoint
from burnish.train.flat import Batch, flatten
from burnish.train.optimizer import MasterAdamW

Loss = Callable[[PreTrainedModel, Batch], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Fit:
    """All that the loop needs."""

    model: Any
    language: PreTrainedModel
    loss: Loss
    optimizer: MasterAdamW
    rows: Sequence[Encoded]
    validation: Sequence[Encoded]
    settings: Train
    accelerator: Accelerator
    artifact_bytes: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return count_steps(len(self.rows), self.settings)

    @property
    def validate_every(self) -> int:
        """Optimizer steps between validations; twice an epoch unless the recipe says."""
        twice = math.ceil(len(self.rows) / self.settings.batch_size / 2)
        return self.settings.evaluate_every or max(min(twice, self.steps), 1)


def fit(plan: Fit, run: Run, state: State) -> State:
    """Train from `state` to the end, or until validation no longer falls.

    Leaves metrics and checkpoints in the run. Raises TrainingStopped when a loss isn't a number.
    """
    with progress("Fine-tuning", total=plan.steps) as bar:
        bar.advance(state.step)
        while state.step < plan.steps and not state.stopped:
            _advance(plan, run, state, bar)
        if not state.stopped:
            state.stopped = "all steps done"
    return state


def _advance(plan: Fit, run: Run, state: State, bar: Bar) -> None:
    """One optimizer step, with the validation and the checkpoint that fall due after it."""
    begun = time.perf_counter()
    rows = rows_of_step(plan.rows, state.step, plan.settings)
    loss = train_step(plan, rows)
    norm = plan.optimizer.clip()
    _refuse_runaway(state.step + 1, loss, norm)
    rate = plan.optimizer.step(state.step)
    seconds = time.perf_counter() - begun
    tokens = sum(len(row.ids) for row in rows)
    state.step, state.tokens = state.step + 1, state.tokens + tokens
    state.seconds += seconds
    run.metrics.write(
        step=state.step,
        loss=loss,
        learning_rate=rate,
        grad_norm=norm,
        tokens=tokens,
        seconds=round(seconds, 4),
    )
    bar.advance(note=f"loss {loss:.3f}, {tokens / seconds:.0f} tokens/s")
    done = time.perf_counter()
    last = state.step == plan.steps
    validates = bool(plan.validation) and (last or state.step % plan.validate_every == 0)
    if validates:
        _judge(plan, run, state, bar)
    if validates or last or state.stopped or _checkpoint_is_due(state.step, plan.settings):
        if not plan.validation:
            state.best_step = state.step
        save_checkpoint(run.path / "checkpoints", state, plan.optimizer.tensors())
        kept = plan.settings
        prune(run.path / "checkpoints", kept.keep_checkpoints, kept.keep_every)
    state.other_seconds += time.perf_counter() - done


def _checkpoint_is_due(step: int, settings: Train) -> bool:
    rhythms = (settings.checkpoint_every, settings.keep_every)
    return any(every and step % every == 0 for every in rhythms)


def train_step(plan: Fit, rows: Sequence[Encoded]) -> float:
    """Gradients of one optimizer step. Returns the mean loss of a learnt token.

    The loss is summed over learnt tokens and divided once by their weight in the whole step:
    averaging each micro-batch by itself would weight short rows too much.
    """
    plan.model.train()
    weight = sum(sum(row.weights) for row in rows)
    total = 0.0
    for some in micro_batches(rows, plan.settings.micro_batch_tokens):
        batch = flatten(some, plan.accelerator.device)
        loss = plan.loss(plan.language, batch) / weight
        plan.accelerator.backward(loss)
        plan.optimizer.collect()
        total += float(loss.detach())
    return total


@torch.no_grad()
def validation_loss(plan: Fit) -> float:
    """Mean loss of a learnt token over the validation rows."""
    plan.model.eval()
    total = 0.0
    for some in micro_batches(plan.validation, plan.settings.micro_batch_tokens):
        total += float(plan.loss(plan.language, flatten(some, plan.accelerator.device)))
    return total / sum(sum(row.weights) for row in plan.validation)


def _judge(plan: Fit, run: Run, state: State, bar: Bar) -> None:
    """Validate; remember the best; stop when it hasn't come back for `patience` validations."""
    loss = validation_loss(plan)
    _refuse_runaway(state.step, loss)
    run.metrics.write(step=state.step, validation_loss=loss)
    bar.advance(0, note=f"validation loss {loss:.3f}")
    if loss < state.best_loss:
        state.best_loss, state.best_step, state.waited = loss, state.step, 0
        return
    state.waited += 1
    if plan.settings.patience and state.waited >= plan.settings.patience:
        state.stopped = f"validation loss rose {state.waited} times; step {state.best_step} is best"


def _refuse_runaway(step: int, *numbers: float) -> None:
    """Raises TrainingStopped if a loss or a gradient's norm isn't a number any more."""
    if not all(math.isfinite(number) for number in numbers):
        raise TrainingStopped(
            f"The loss or its gradient is no longer a number at step {step}; the last checkpoint "
            "is from before.",
            "Start again with half the train.learning_rate, or with model.dtype=float32.",
        )
