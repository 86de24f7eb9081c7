"""The loss of one micro-batch with its metrics, and the type of a function that computes it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from burnish.train.batching.packed import PackedBatch


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """The summed loss of a micro-batch and its metrics.

    A metric has one value for each row (or token) that it is about; a step reports the mean.
    """

    loss: torch.Tensor
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)


LossFn = Callable[[PreTrainedModel, PackedBatch], BatchLoss]
