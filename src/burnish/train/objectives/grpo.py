"""Group relative policy optimisation: the model's own answers, scored by a reward."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from burnish.core.recipe.objectives import Grpo
from burnish.core.records import Row
from burnish.train.batching.examples import (
    Encode,
    Example,
    RolloutGroup,
    rollout_groups,
    without_answer,
)
from burnish.train.batching.packed import PackedBatch
from burnish.train.forward.logprobs import logprobs_at_temperature
from burnish.train.loop.language_model import Objective
from burnish.train.losses.batch_loss import BatchLoss
from burnish.train.losses.policy_gradient import clipped_surrogate, estimate_kl
from burnish.train.objectives.base import answer_lengths, batch_only, target_weight
from burnish.train.rlhf.rollouts import Rollouts


def grpo(settings: Grpo) -> Objective:
    """Build the objective `grpo`."""

    def compute_loss(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        groups = [row for row in batch.examples if isinstance(row, RolloutGroup)]
        logprobs = logprobs_at_temperature(model, batch, settings.temperature)
        current = logprobs.detach()
        old = _token_logprobs([row.old for row in groups], current)
        reference = _token_logprobs([row.reference for row in groups], current)
        per_answer = [advantage for row in groups for advantage in row.advantages]
        advantages = torch.tensor(per_answer, device=current.device)[batch.answer_index]
        high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
        each = clipped_surrogate(logprobs, old, advantages, (settings.epsilon, high))
        # The ratio makes the gradient that of the reverse KL divergence itself, without bias
        # (DeepSeek-V3.2, 2025, arXiv:2512.02556).
        kl = estimate_kl(logprobs, reference) * (logprobs - old).exp()
        weights = batch.weights
        if settings.loss == "grpo":
            weights = weights / answer_lengths(batch)[batch.answer_index]
        is_target = batch.weights > 0
        ratio = (current - old).exp()
        clipped = (ratio < 1 - settings.epsilon) | (ratio > 1 + high)
        metrics = {"kl": kl.detach()[is_target], "clipped": clipped.float()[is_target]}
        return BatchLoss(((each + settings.beta * kl) * weights).sum(), metrics)

    def examples(rows: Sequence[Row], encode: Encode) -> list[Example]:
        return rollout_groups(rows, encode, settings.num_generations, settings.max_new_tokens)

    return Objective(
        examples,
        _WEIGHTS[settings.loss],
        batch_only(compute_loss),
        audit_row=without_answer,
        stages=(Rollouts(settings),),
    )


def _token_logprobs(per_group: Sequence[Sequence[float]], current: torch.Tensor) -> torch.Tensor:
    """Return (targets,) the stored log-probabilities of the groups, or `current` if there are
    none."""
    logprobs = [logprob for group in per_group for logprob in group]
    if not logprobs:
        return current
    padding = torch.zeros(len(current) - len(logprobs), device=current.device)
    return torch.cat([torch.tensor(logprobs, device=current.device), padding])


def _answer_count(rows: Sequence[Example]) -> float:
    return sum(len(row.answers) for row in rows)


def _max_answer_tokens(rows: Sequence[Example]) -> float:
    return sum(
        len(row.answers) * row.max_new_tokens for row in rows if isinstance(row, RolloutGroup)
    )


#: `train.objective.loss` → the denominator of a step's summed loss.
_WEIGHTS: dict[str, Callable[[Sequence[Example]], float]] = {
    "dapo": target_weight,
    "grpo": _answer_count,
    "dr_grpo": _max_answer_tokens,
}
