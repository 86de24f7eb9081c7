"""Parts that several objectives share: loss denominators, answer lengths, losses of one batch."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from burnish.train.batching.examples import Example, all_answers
from burnish.train.batching.packed import PackedBatch
from burnish.train.losses.batch_loss import LossFn


def batch_only(loss_fn: LossFn) -> Callable[[PreTrainedModel, Sequence[Example], int], LossFn]:
    """Return a `make_loss` for a loss that depends on nothing but its micro-batch."""
    return lambda model, rows, max_tokens: loss_fn


def target_weight(rows: Sequence[Example]) -> float:
    """Return the summed loss weights of all target tokens."""
    return sum(sum(answer.weights) for answer in all_answers(rows))


def row_count(rows: Sequence[Example]) -> float:
    """Return the number of rows."""
    return len(rows)


def answer_lengths(batch: PackedBatch) -> torch.Tensor:
    """Return (answers,) the number of target tokens of each answer."""
    lengths = [float(answer.target_count) for answer in all_answers(batch.examples)]
    return torch.tensor(lengths, device=batch.ids.device)
