"""Preference objectives: DPO, ORPO and SimPO on pairs of answers, KTO on single judged answers."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from burnish.core.recipe.objectives import Dpo, Kto, Orpo, Simpo
from burnish.train.batching.examples import (
    Example,
    PreferenceExample,
    kto_examples,
    preference_pairs,
)
from burnish.train.batching.packed import PackedBatch, pack
from burnish.train.forward.logprobs import answer_logprobs
from burnish.train.forward.path import batches_of
from burnish.train.loop.language_model import Objective
from burnish.train.losses import preference as losses
from burnish.train.losses.batch_loss import BatchLoss, LossFn
from burnish.train.objectives.base import answer_lengths, batch_only, row_count
from burnish.train.rlhf.reference import ReferenceLogprobs


def dpo(settings: Dpo) -> Objective:
    """Build the objective `dpo`."""

    def compute_loss(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        log_ratios = answer_logprobs(model, batch) - _reference_logprobs(batch)
        chosen, rejected = _split_pairs(log_ratios)
        if settings.loss == "ipo":
            margin = torch.sub(*_split_pairs(log_ratios / answer_lengths(batch)))
            each = losses.ipo(margin, settings.beta)
        elif settings.loss == "hinge":
            each = losses.dpo_hinge(chosen - rejected, settings.beta)
        else:
            each = losses.dpo_sigmoid(chosen - rejected, settings.beta, settings.label_smoothing)
        return _pair_loss(each, settings.beta * chosen, settings.beta * rejected)

    return Objective(
        preference_pairs, row_count, batch_only(compute_loss), stages=(ReferenceLogprobs(),)
    )


def orpo(settings: Orpo) -> Objective:
    """Build the objective `orpo`."""

    def compute_loss(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        chosen, rejected = _split_pairs(answer_logprobs(model, batch) / answer_lengths(batch))
        each = losses.orpo(chosen, rejected, settings.beta)
        return _pair_loss(each, settings.beta * chosen, settings.beta * rejected)

    return Objective(preference_pairs, row_count, batch_only(compute_loss))


def simpo(settings: Simpo) -> Objective:
    """Build the objective `simpo`."""

    def compute_loss(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        chosen, rejected = _split_pairs(answer_logprobs(model, batch) / answer_lengths(batch))
        each = losses.simpo(chosen, rejected, settings.beta, settings.gamma)
        return _pair_loss(each, settings.beta * chosen, settings.beta * rejected)

    return Objective(preference_pairs, row_count, batch_only(compute_loss))


def kto(settings: Kto) -> Objective:
    """Build the objective `kto`."""

    def make_loss(model: PreTrainedModel, rows: Sequence[Example], max_tokens: int) -> LossFn:
        kl = _estimate_kl(model, rows, max_tokens)
        return lambda model, batch: compute_loss(model, batch, kl)

    def compute_loss(model: PreTrainedModel, batch: PackedBatch, kl: float) -> BatchLoss:
        log_ratios = answer_logprobs(model, batch) - _reference_logprobs(batch)
        desirable = torch.tensor(
            [row.desirable for row in _preference_examples(batch)], device=log_ratios.device
        )
        each = losses.kto(log_ratios, desirable, log_ratios.new_tensor(kl), settings.beta)
        weights = torch.where(desirable, settings.desirable_weight, settings.undesirable_weight)
        rewards = settings.beta * log_ratios.detach()
        metrics = {
            "rewards/chosen": rewards[desirable],
            "rewards/rejected": rewards[~desirable],
            "rewards/accuracy": ((rewards > settings.beta * kl) == desirable).float(),
            "kl": torch.full_like(rewards, kl),
        }
        return BatchLoss((weights * each).sum(), metrics)

    return Objective(kto_examples, row_count, make_loss, stages=(ReferenceLogprobs(),))


def _preference_examples(batch: PackedBatch) -> list[PreferenceExample]:
    return [row for row in batch.examples if isinstance(row, PreferenceExample)]


def _reference_logprobs(batch: PackedBatch) -> torch.Tensor:
    """Return (answers,) the log-probabilities of the batch's answers before training."""
    logprobs = [
        logprob
        for row in _preference_examples(batch)
        for logprob in row.reference[: len(row.answers)]
    ]
    return torch.tensor(logprobs, device=batch.ids.device)


def _split_pairs(answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split (2 x pairs,) into (pairs,) of the chosen and (pairs,) of the rejected answers."""
    return answers[::2], answers[1::2]


def _pair_loss(each: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor) -> BatchLoss:
    """Return the loss of a batch of pairs, from its losses and the rewards of both answers."""
    metrics = {
        "rewards/chosen": chosen.detach(),
        "rewards/rejected": rejected.detach(),
        "rewards/accuracy": (chosen > rejected).float(),
    }
    return BatchLoss(each.sum(), metrics)


@torch.no_grad()
def _estimate_kl(model: PreTrainedModel, rows: Sequence[Example], max_tokens: int) -> float:
    """Return the mean log-ratio of a step's mismatched answers, at least 0: KTO's estimate of the
    divergence from the reference."""
    mismatched = [
        PreferenceExample((row.mismatched,), reference=row.reference[-1:])
        for row in rows
        if isinstance(row, PreferenceExample) and row.mismatched
    ]
    total = 0.0
    for examples in batches_of(model, mismatched, max_tokens):
        batch = pack(examples, model.device)
        total += float((answer_logprobs(model, batch) - _reference_logprobs(batch)).sum())
    return max(total / len(mismatched), 0.0) if mismatched else 0.0
