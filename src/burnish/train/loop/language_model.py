"""The training step of a language model: micro-batches, loss, gradients, validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from burnish.train.batching.examples import Example
from burnish.train.batching.micro_batches import (
    count_all_tokens,
)
from burnish.train.batching.packed import pack
from burnish.train.distributed.process_group import split_by_tokens
from burnish.train.forward.path import batches_of, count_tokens
from burnish.train.loop.loop import StepResult, TrainingModule
from burnish.train.loop.step_metrics import MetricMeans
from burnish.train.objectives.registry import Objective


class ExampleSource(Protocol):
    """Makes what is learnt from questions: answers of the model itself (train.drawing,
    train.on_policy)."""

    def examples_for_step(
        self, rows: Sequence[Example], step: int
    ) -> tuple[list[Example], dict[str, float]]:
        """What step `step` (from 0) learns from, perhaps nothing, and what is measured of it."""

    def dry_run(self, rows: Sequence[Example]) -> None:
        """All that `learn` computes, without a trace."""

    def roll_back(self, step: int) -> None:
        """Forget what belongs to steps that will be done again."""

    def validate(self, rows: Sequence[Example]) -> dict[str, float]:
        """A validation: a `loss` to be made small, and what else is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelModule(TrainingModule):
    """A language model that learns what an objective says."""

    language: PreTrainedModel
    objective: Objective
    accelerator: Accelerator
    artifact_bytes: int
    example_source: ExampleSource | None = None

    def training_step(self, rows: Sequence[Example], step: int) -> StepResult:
        """See `train_step`; where the model draws its own answers, they are what is learnt from."""
        drawn: dict[str, float] = {}
        if self.example_source:
            rows, drawn = self.example_source.examples_for_step(rows, step)
        if not rows:
            return StepResult({"loss": 0.0, **drawn}, 0)
        return StepResult({**train_step(self, rows), **drawn}, count_all_tokens(rows))

    def validation_step(self, rows: Sequence[Example]) -> dict[str, float]:
        """See `validation_means`."""
        return compute_validation_metrics(self, rows)


def train_step(plan: LanguageModelModule, rows: Sequence[Example]) -> dict[str, float]:
    """Gradients of one optimizer step. Returns its `loss` and what else the objective measures.

    The loss is summed and divided once by the rows' weight in the whole step (their learnt tokens,
    or their number): averaging each micro-batch by itself would weight short rows too much.
    """
    plan.model.train()
    means = MetricMeans(plan.objective.weight(rows))
    judge = plan.objective.make_loss(plan.language, rows, plan.settings.micro_batch_tokens)
    for some, counts in _local_micro_batches(plan, rows):
        judgement = judge(plan.language, pack(some, plan.accelerator.device))
        plan.accelerator.backward(judgement.loss * (counts / means.weight))
        plan.optimizer.accumulate()
        if counts:
            means.add(judgement)
        # Its graph would stay beside that of the next micro-batch.
        del judgement
    return means.reduce(plan.team).as_dict()


def _local_micro_batches(
    plan: LanguageModelModule, rows: Sequence[Example]
) -> list[tuple[list[Example], int]]:
    """This process's micro-batches of some rows, each with a 1; and with a 0 those that it only
    goes through because another process has more: what is divided comes together in every pass."""
    parts = split_by_tokens(rows, plan.team.size)
    most = plan.settings.micro_batch_tokens
    batches = [batches_of(plan.language, part, most) for part in parts]
    own, most = batches[plan.team.rank], max(map(len, batches))
    spare = min(
        (some for part in batches for some in part),
        key=lambda some: count_tokens(plan.language, some),
    )
    return [(some, 1) for some in own] + [(spare, 0)] * (most - len(own))


@torch.no_grad()
def compute_validation_metrics(
    plan: LanguageModelModule, rows: Sequence[Example]
) -> dict[str, float]:
    """The same means over rows from which nothing is learnt."""
    plan.model.eval()
    if plan.example_source:
        return plan.example_source.validate(rows)
    means = MetricMeans(plan.objective.weight(rows))
    judge = plan.objective.make_loss(plan.language, rows, plan.settings.micro_batch_tokens)
    for some, counts in _local_micro_batches(plan, rows):
        judgement = judge(plan.language, pack(some, plan.accelerator.device))
        if counts:
            means.add(judgement)
    return means.reduce(plan.team).as_dict()
