"""The one loop: steps, validations, checkpoints. It knows no method and no objective by name."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from burnish.core.errors import TrainingStopped
from burnish.core.progress import Bar, progress
from burnish.core.runs import Run
from burnish.core.training import Train
from burnish.train.batches import (
    all_tokens,
    computed_tokens,
    micro_batches,
)
from burnish.train.checkpoint import State, prune, save_checkpoint
from burnish.train.examples import Example
from burnish.train.flat import flatten
from burnish.train.means import Means
from burnish.train.memory import give_back
from burnish.train.objectives import Objective
from burnish.train.optimizer import MasterAdamW
from burnish.train.order import Units, count_steps, rows_of_step
from burnish.train.team import ALONE, Team, parts_of
from burnish.train.tracker import Log

#: Hears of each validation (step, loss), and may end the run by raising an error.
Watch = Callable[[int, float], None]


class Draws(Protocol):
    """Makes what is learnt from questions: answers of the model itself (train.drawing,
    train.on_policy)."""

    def learn(self, rows: Sequence[Example], step: int) -> tuple[list[Example], dict[str, float]]:
        """What step `step` (from 0) learns from, perhaps nothing, and what is measured of it."""

    def rehearse(self, rows: Sequence[Example]) -> None:
        """All that `learn` computes, without a trace."""

    def resume(self, step: int) -> None:
        """Forget what belongs to steps that will be done again."""

    def judge(self, rows: Sequence[Example]) -> dict[str, float]:
        """A validation: a `loss` to be made small, and what else is measured."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a step measured (its `loss` and more), and of how many tokens; 0 if it taught nothing,
    and then weights and moments must not move."""

    means: Mapping[str, float]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ABC):
    """What the loop needs of a training, whatever it learns."""

    model: Any
    optimizer: MasterAdamW
    rows: Sequence[Any]
    validation: Sequence[Any]
    settings: Train
    units: Units = ()
    team: Team = ALONE
    watch: Watch | None = None
    log: Log | None = None

    @abstractmethod
    def learn(self, rows: Sequence[Any], step: int) -> Learnt:
        """Gradients of optimizer step `step` (from 0)."""

    @abstractmethod
    def measure(self, rows: Sequence[Any]) -> dict[str, float]:
        """The same means over rows from which nothing is learnt."""

    def rows_of(self, step: int) -> list[Any]:
        """What optimizer step `step` (from 0) learns from."""
        return rows_of_step(self.rows, step, self.settings, self.units)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return count_steps(len(self.rows), self.settings)

    @property
    def validate_every(self) -> int:
        """Optimizer steps between validations; twice an epoch unless the recipe says."""
        twice = math.ceil(len(self.rows) / self.settings.batch_size / 2)
        return self.settings.evaluate_every or max(min(twice, self.steps), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(Plan):
    """A language model that learns what an objective says."""

    language: PreTrainedModel
    objective: Objective
    accelerator: Accelerator
    artifact_bytes: int
    drawing: Draws | None = None

    def learn(self, rows: Sequence[Example], step: int) -> Learnt:
        """See `train_step`; where the model draws its own answers, they are what is learnt from."""
        drawn: dict[str, float] = {}
        if self.drawing:
            rows, drawn = self.drawing.learn(rows, step)
        if not rows:
            return Learnt({"loss": 0.0, **drawn}, 0)
        return Learnt({**train_step(self, rows), **drawn}, all_tokens(rows))

    def measure(self, rows: Sequence[Example]) -> dict[str, float]:
        """See `validation_means`."""
        return validation_means(self, rows)


def fit(plan: Plan, run: Run, state: State) -> State:
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


def _advance(plan: Plan, run: Run, state: State, bar: Bar) -> None:
    """One optimizer step, with the validation and the checkpoint that fall due after it."""
    begun = time.perf_counter()
    plan.team.reseed(plan.settings.seed, state.step)
    rows = plan.rows_of(state.step)
    move(plan, run, state, plan.learn(rows, state.step), begun, bar)


def move(plan: Plan, run: Run, state: State, learnt: Learnt, begun: float, bar: Bar) -> bool:
    """Update the weights by what a step has learnt since `begun` (seconds), validate, and keep a
    checkpoint, as far as that falls due. Returns whether one was kept.

    Raises TrainingStopped when a loss isn't a number.
    """
    means, tokens = learnt.means, learnt.tokens
    norm = plan.optimizer.clip()
    _refuse_runaway(state.step + 1, means["loss"], norm)
    rate = plan.optimizer.step(state.step) if tokens else plan.optimizer.rate(state.step)
    seconds = time.perf_counter() - begun
    state.step, state.tokens = state.step + 1, state.tokens + tokens
    state.seconds += seconds
    measured = {**means, "learning_rate": rate, "grad_norm": norm, "tokens": tokens}
    _note(plan, run, state.step, {**measured, "seconds": round(seconds, 4)})
    bar.advance(note=f"{_shown(means)}, {tokens / seconds:.0f} tokens/s")
    done = time.perf_counter()
    last = state.step == plan.steps
    validates = bool(plan.validation) and (last or state.step % plan.validate_every == 0)
    if validates:
        _judge(plan, run, state, bar)
    due = bool(validates or last or state.stopped or _checkpoint_is_due(state.step, plan.settings))
    if due:
        keep(plan, run, state)
    state.other_seconds += time.perf_counter() - done
    return due


def keep(plan: Plan, run: Run, state: State) -> None:
    """A checkpoint, and those that are too old removed; all processes bring their parts."""
    if not plan.validation:
        state.best_step = state.step
    # What the step has freed would stand beside the copy that is written.
    give_back()
    tensors = plan.optimizer.tensors()
    if plan.team.leads:
        save_checkpoint(run.path / "checkpoints", state, tensors)
        kept = plan.settings
        prune(run.path / "checkpoints", kept.keep_checkpoints, kept.keep_every)


def _shown(means: Mapping[str, float]) -> str:
    """What a person watches fall, or rise."""
    return f"reward {means['reward']:.3f}" if "reward" in means else f"loss {means['loss']:.3f}"


def _note(plan: Plan, run: Run, step: int, numbers: Mapping[str, float]) -> None:
    if not plan.team.leads:
        return
    run.metrics.write(step=step, **numbers)
    if plan.log:
        plan.log(step, numbers)


def _checkpoint_is_due(step: int, settings: Train) -> bool:
    rhythms = (settings.checkpoint_every, settings.keep_every)
    return any(every and step % every == 0 for every in rhythms)


def train_step(plan: Fit, rows: Sequence[Example]) -> dict[str, float]:
    """Gradients of one optimizer step. Returns its `loss` and what else the objective measures.

    The loss is summed and divided once by the rows' weight in the whole step (their learnt tokens,
    or their number): averaging each micro-batch by itself would weight short rows too much.
    """
    plan.model.train()
    means = Means(plan.objective.weight(rows))
    judge = plan.objective.judge_of(plan.language, rows, plan.settings.micro_batch_tokens)
    for some, counts in _own_batches(plan, rows):
        judgement = judge(plan.language, flatten(some, plan.accelerator.device))
        plan.accelerator.backward(judgement.loss * (counts / means.weight))
        plan.optimizer.collect()
        if counts:
            means.add(judgement)
        # Its graph would stay beside that of the next micro-batch.
        del judgement
    return means.together(plan.team).as_dict()


def _own_batches(plan: Fit, rows: Sequence[Example]) -> list[tuple[list[Example], int]]:
    """This process's micro-batches of some rows, each with a 1; and with a 0 those that it only
    goes through because another process has more: what is divided comes together in every pass."""
    parts = parts_of(rows, plan.team.size)
    batches = [micro_batches(part, plan.settings.micro_batch_tokens) for part in parts]
    own, most = batches[plan.team.rank], max(map(len, batches))
    spare = min((some for part in batches for some in part), key=computed_tokens)
    return [(some, 1) for some in own] + [(spare, 0)] * (most - len(own))


@torch.no_grad()
def validation_means(plan: Fit, rows: Sequence[Example]) -> dict[str, float]:
    """The same means over rows from which nothing is learnt."""
    plan.model.eval()
    if plan.drawing:
        return plan.drawing.judge(rows)
    means = Means(plan.objective.weight(rows))
    judge = plan.objective.judge_of(plan.language, rows, plan.settings.micro_batch_tokens)
    for some, counts in _own_batches(plan, rows):
        judgement = judge(plan.language, flatten(some, plan.accelerator.device))
        if counts:
            means.add(judgement)
    return means.together(plan.team).as_dict()


def _judge(plan: Plan, run: Run, state: State, bar: Bar) -> None:
    """Validate; remember the best; stop when it hasn't come back for `patience` validations."""
    means = plan.measure(plan.validation)
    loss = means["loss"]
    _refuse_runaway(state.step, loss)
    named = {f"validation_{name}": mean for name, mean in means.items()}
    _note(plan, run, state.step, named)
    bar.advance(0, note=f"validation {_shown(means)}")
    if plan.watch:
        plan.watch(state.step, loss)
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
