"""Supervised fine-tuning: cross-entropy of the answers."""

import torch
from transformers import PreTrainedModel

from burnish.core.recipe.objectives import Sft
from burnish.train.batching.examples import sft_examples
from burnish.train.batching.packed import PackedBatch
from burnish.train.forward.path import target_states
from burnish.train.loop.language_model import Objective
from burnish.train.losses.batch_loss import BatchLoss
from burnish.train.losses.linear import LinearCrossEntropy
from burnish.train.objectives.base import batch_only, target_weight


def sft_loss(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """Return the cross-entropy summed over the target tokens, times their weights."""
    hidden, head = target_states(model, batch)
    loss: torch.Tensor = LinearCrossEntropy.apply(hidden, head, batch.targets, batch.weights)
    return loss


def sft(settings: Sft) -> Objective:
    """Build the objective `sft`."""

    def compute_loss(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        return BatchLoss(sft_loss(model, batch))

    return Objective(sft_examples, target_weight, batch_only(compute_loss))
