"""Log-probabilities of a batch's target tokens and answers, on any forward path."""

import torch
from transformers import PreTrainedModel

from burnish.train.batching.packed import PackedBatch
from burnish.train.forward.path import target_states
from burnish.train.losses.linear import LinearLogProbs


def answer_logprobs(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """Return (answers,) the log-probability of each answer of a batch, summed over its tokens."""
    hidden, head = target_states(model, batch)
    tokens = LinearLogProbs.apply(hidden, head, batch.targets) * batch.weights
    answers = torch.arange(len(batch.layout.gather), device=tokens.device)
    # A product and not index_add: its order of additions is the same on every device.
    one_hot = (batch.answer_index[None] == answers[:, None]).to(tokens.dtype)
    logprobs: torch.Tensor = one_hot @ tokens
    return logprobs


def logprobs_at_temperature(
    model: PreTrainedModel, batch: PackedBatch, temperature: float
) -> torch.Tensor:
    """Return (targets,) the log-probability of each target token when sampled at `temperature`."""
    hidden, head = target_states(model, batch)
    logprobs: torch.Tensor = LinearLogProbs.apply(hidden / temperature, head, batch.targets)
    return logprobs
