"""The training step of a language model: micro-batches, loss, gradients, validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from burnish.train.batching.examples import Example
from burnish.train.batching.micro_batches import all_tokens, computed_tokens, micro_batches
from burnish.train.batching.packed import flatten
from burnish.train.distributed.process_group import parts_of
from burnish.train.loop.loop import Learnt, Plan
from burnish.train.loop.step_metrics import Means
from burnish.train.objectives.registry import Objective


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
