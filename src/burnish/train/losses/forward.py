"""The forward pass over a packed batch: hidden states and log-probabilities of target tokens."""

from typing import Any

import torch
from transformers import PreTrainedModel

from burnish.train.batching.packed import PackedBatch
from burnish.train.losses.linear import LinearLogProbs


def target_states(model: PreTrainedModel, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden states (targets, width) that predict the target tokens, and the weight
    (vocabulary, width) of the head.

    Only these positions reach the vocabulary.
    """
    hidden = _body(model)(
        input_ids=batch.ids,
        position_ids=batch.positions,
        use_cache=False,
        layout=batch.layout,
    ).last_hidden_state[0]
    return hidden.index_select(0, batch.predict_positions), model.get_output_embeddings().weight


def _body(model: Any) -> Any:
    """Return the model below its head; `distributed.fsdp.shard` gives a sharded model a `body`
    that gathers the weights around its forward pass."""
    return getattr(model, "body", model.base_model)


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
