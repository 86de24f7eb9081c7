"""Training of a language model: objective, stages, and the step with its micro-batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from burnish.core.recipe.train import Train
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.train.adapters.adapted_model import AdaptedModel
from burnish.train.batching.examples import Encode, Example
from burnish.train.batching.micro_batches import (
    count_all_tokens,
)
from burnish.train.batching.packed import pack
from burnish.train.distributed.process_group import split_by_tokens
from burnish.train.forward.path import batches_of, count_tokens
from burnish.train.loop.checkpoint import TrainState
from burnish.train.loop.context import TrainContext
from burnish.train.loop.loop import StepResult, TrainingModule
from burnish.train.loop.step_metrics import MetricMeans
from burnish.train.losses.batch_loss import LossFn


class Stage:
    """Work that an objective needs done before the first step.

    Each method is called at one moment of a run, in the order below. By default it does nothing.
    """

    def extend_model(self, model: Any, settings: Train) -> None:
        """Add weights of its own to the model, before the optimizer is made."""

    def prepare(
        self, module: "LanguageModelModule", context: TrainContext, run: Run
    ) -> "LanguageModelModule":
        """Return the module with its examples completed, or with a source of examples.

        The weights are those of before training, in a resumed run too: its checkpoint is loaded
        afterwards.
        """
        return module

    def for_probe(self, module: "LanguageModelModule") -> "LanguageModelModule":
        """Return the module for the probe, with stand-ins for what `before_first_step` adds."""
        return module

    def rows_to_score(self, module: "LanguageModelModule") -> Sequence[Example]:
        """Return the rows that `before_first_step` passes through the model, for the forecast."""
        return ()

    def before_first_step(
        self, module: "LanguageModelModule", run: Run, state: TrainState
    ) -> "LanguageModelModule":
        """Return the module with what takes long to compute; the forecast has said how long."""
        return module

    def before_save(self, model: Any) -> None:
        """Remove the weights that `extend_model` has added."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a language model learns from rows.

    `examples` turns rows into examples, and `weight` gives the denominator of their summed loss.
    `make_loss` (model, rows of a step, most tokens of a forward pass) returns the loss function of
    the step's micro-batches, and may look at all of the rows first. `audit_row` returns the part of
    a row that the token audit reads. `stages` do what is needed before the first step, in order.
    """

    examples: Callable[[Sequence[Row], Encode], list[Example]]
    weight: Callable[[Sequence[Example]], float]
    make_loss: Callable[[PreTrainedModel, Sequence[Example], int], LossFn]
    audit_row: Callable[[Row], Row] = lambda row: row
    stages: tuple[Stage, ...] = ()


class ExampleSource(Protocol):
    """Makes the examples of a step from prompts: the model's own answers (`rlhf.rollouts`,
    `distillation.on_policy`)."""

    def examples_for_step(
        self, rows: Sequence[Example], step: int
    ) -> tuple[list[Example], dict[str, float]]:
        """Return the examples of step `step` (from 0), perhaps none, and their metrics."""

    def dry_run(self, rows: Sequence[Example]) -> None:
        """Do the work of `examples_for_step` without leaving a trace."""

    def roll_back(self, step: int) -> None:
        """Forget what belongs to steps from `step` on, which will be repeated."""

    def validate(self, rows: Sequence[Example]) -> dict[str, float]:
        """Return validation metrics, among them the `loss` to minimise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelModule(TrainingModule[Example]):
    """A language model in training. `language` is the model inside its PEFT wrapper."""

    adapted: AdaptedModel
    language: PreTrainedModel
    objective: Objective
    accelerator: Accelerator
    artifact_bytes: int
    example_source: ExampleSource | None = None

    def training_step(self, rows: Sequence[Example], step: int) -> StepResult:
        """Compute the gradients of one step, on the examples of the source if there is one."""
        metrics: dict[str, float] = {}
        if self.example_source:
            rows, metrics = self.example_source.examples_for_step(rows, step)
        if not rows:
            return StepResult({"loss": 0.0, **metrics}, 0)
        return StepResult({**train_step(self, rows), **metrics}, count_all_tokens(rows))

    def validation_step(self, rows: Sequence[Example]) -> dict[str, float]:
        """Return the validation metrics of `rows`."""
        return compute_validation_metrics(self, rows)

    def roll_back(self, step: int) -> None:
        """Forget the examples that were made for steps from `step` on."""
        if self.example_source:
            self.example_source.roll_back(step)


def train_step(module: LanguageModelModule, rows: Sequence[Example]) -> dict[str, float]:
    """Compute the gradients of one optimizer step. Returns its `loss` and the objective's metrics.

    The loss is summed and divided once by the rows' weight in the whole step (their target tokens,
    or their number): averaging each micro-batch by itself would weight short rows too much.
    """
    module.model.train()
    means = MetricMeans(module.objective.weight(rows))
    loss_fn = module.objective.make_loss(module.language, rows, module.settings.micro_batch_tokens)
    for examples, counts in _local_micro_batches(module, rows):
        batch_loss = loss_fn(module.language, pack(examples, module.accelerator.device))
        module.accelerator.backward(batch_loss.loss * (counts / means.weight))
        module.optimizer.accumulate()
        if counts:
            means.add(batch_loss)
        # Its graph would stay beside that of the next micro-batch.
        del batch_loss
    return means.reduce(module.process_group).as_dict()


def _local_micro_batches(
    module: LanguageModelModule, rows: Sequence[Example]
) -> list[tuple[list[Example], int]]:
    """Return the micro-batches of this process, each with a 1, then padding ones with a 0.

    A process with fewer micro-batches than another one passes padding through the model, since
    sharded weights are gathered in every pass by all processes.
    """
    parts = split_by_tokens(rows, module.process_group.size)
    language, max_tokens = module.language, module.settings.micro_batch_tokens
    batches = [batches_of(language, part, max_tokens) for part in parts]
    local, most = batches[module.process_group.rank], max(map(len, batches))
    everything = (batch for part in batches for batch in part)
    smallest = min(everything, key=lambda batch: count_tokens(language, batch))
    return [(batch, 1) for batch in local] + [(smallest, 0)] * (most - len(local))


@torch.no_grad()
def compute_validation_metrics(
    module: LanguageModelModule, rows: Sequence[Example]
) -> dict[str, float]:
    """Return the `loss` and the objective's metrics of `rows`, without gradients."""
    module.model.eval()
    if module.example_source:
        return module.example_source.validate(rows)
    means = MetricMeans(module.objective.weight(rows))
    loss_fn = module.objective.make_loss(module.language, rows, module.settings.micro_batch_tokens)
    for examples, counts in _local_micro_batches(module, rows):
        batch_loss = loss_fn(module.language, pack(examples, module.accelerator.device))
        if counts:
            means.add(batch_loss)
    return means.reduce(module.process_group).as_dict()
