"""What is learnt from rows: the table of objectives.

An objective says what a row becomes, what a step's summed loss is divided by, and how a batch is
judged. The loop knows nothing else of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from burnish.core.recipe.objectives import (
    CustomLoss,
    Distillation,
    Dpo,
    Grpo,
    Kto,
    Orpo,
    Sft,
    Simpo,
)
from burnish.core.records import Row
from burnish.train.batching.examples import (
    CrossTokenizerExample,
    Encode,
    Example,
    PreferenceExample,
    RolloutGroup,
    all_answers,
    kto_examples,
    preference_pairs,
    rollout_groups,
    row_examples,
    sft_examples,
    without_answer,
)
from burnish.train.batching.packed import PackedBatch, pack
from burnish.train.forward.path import batches_of, target_states
from burnish.train.losses import policy_gradient as reinforcement
from burnish.train.losses import preference as preferences
from burnish.train.losses.cross_tokenizer import cross_tokenizer_distribution, cross_tokenizer_loss
from burnish.train.losses.divergence import LinearDivergence, teacher_distribution
from burnish.train.losses.linear import LinearCrossEntropy, LinearLogProbs
from burnish.train.objectives.custom_loss import compute_losses, load_loss


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """A batch as an objective sees it: its loss, summed, and what is measured beside it.

    `measured` has a value for each row that a name is about; a step shows their mean.
    """

    loss: torch.Tensor
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)


LossFn = Callable[[PreTrainedModel, PackedBatch], BatchLoss]


@dataclass(frozen=True, slots=True)
class Objective:
    """One way to learn.

    `examples` says what rows become, and `weight` what the summed loss of some is divided by.
    `judge_of` (model, rows of a step, most tokens of a forward pass) gives the step's judge, and
    may look at all of its rows first. `has_reference` asks for log-probabilities from before
    training. `audited` says what of a row the token audit reads.
    """

    examples: Callable[[Sequence[Row], Encode], list[Example]]
    weight: Callable[[Sequence[Example]], float]
    make_loss: Callable[[PreTrainedModel, Sequence[Example], int], LossFn]
    needs_reference: bool = False
    audit_row: Callable[[Row], Row] = lambda row: row


def sft_loss(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """Supervised fine-tuning: cross-entropy summed over the learnt tokens, times their weights."""
    chosen, head = target_states(model, batch)
    loss: torch.Tensor = LinearCrossEntropy.apply(chosen, head, batch.targets, batch.weights)
    return loss


def answer_logprobs(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """(answers,): the log-probability of each answer in a batch, summed over its tokens."""
    chosen, head = target_states(model, batch)
    tokens = LinearLogProbs.apply(chosen, head, batch.targets) * batch.weights
    answers = torch.arange(len(batch.layout.gather), device=tokens.device)
    # A product and not index_add: its order of additions is the same on every device.
    own: torch.Tensor = (batch.answer_index[None] == answers[:, None]).to(tokens.dtype) @ tokens
    return own


def _sft(settings: Sft) -> Objective:
    def judge(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        return BatchLoss(sft_loss(model, batch))

    return Objective(sft_examples, _learnt_tokens, _batch_only(judge))


def _dpo(settings: Dpo) -> Objective:
    def judge(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        gains = answer_logprobs(model, batch) - _reference_logprobs(batch)
        chosen, rejected = _split_pairs(gains)
        if settings.loss == "ipo":
            margin = torch.sub(*_split_pairs(gains / _lengths(batch)))
            losses = preferences.ipo(margin, settings.beta)
        elif settings.loss == "hinge":
            losses = preferences.dpo_hinge(chosen - rejected, settings.beta)
        else:
            losses = preferences.dpo_sigmoid(
                chosen - rejected, settings.beta, settings.label_smoothing
            )
        return BatchLoss(
            losses.sum(), _pair_metrics(settings.beta * chosen, settings.beta * rejected)
        )

    return Objective(preference_pairs, _row_count, _batch_only(judge), needs_reference=True)


def _orpo(settings: Orpo) -> Objective:
    def judge(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        chosen, rejected = _split_pairs(answer_logprobs(model, batch) / _lengths(batch))
        losses = preferences.orpo(chosen, rejected, settings.beta)
        return BatchLoss(
            losses.sum(), _pair_metrics(settings.beta * chosen, settings.beta * rejected)
        )

    return Objective(preference_pairs, _row_count, _batch_only(judge))


def _simpo(settings: Simpo) -> Objective:
    def judge(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        chosen, rejected = _split_pairs(answer_logprobs(model, batch) / _lengths(batch))
        losses = preferences.simpo(chosen, rejected, settings.beta, settings.gamma)
        return BatchLoss(
            losses.sum(), _pair_metrics(settings.beta * chosen, settings.beta * rejected)
        )

    return Objective(preference_pairs, _row_count, _batch_only(judge))


def _kto(settings: Kto) -> Objective:
    def judge_of(model: PreTrainedModel, rows: Sequence[Example], most_tokens: int) -> LossFn:
        drift = _estimate_kl(model, rows, most_tokens)
        return lambda model, batch: judge(model, batch, drift)

    def judge(model: PreTrainedModel, batch: PackedBatch, drift: float) -> BatchLoss:
        gains = answer_logprobs(model, batch) - _reference_logprobs(batch)
        desirable = torch.tensor(
            [row.desirable for row in _preference_examples(batch)], device=gains.device
        )
        losses = preferences.kto(gains, desirable, gains.new_tensor(drift), settings.beta)
        weights = torch.where(desirable, settings.desirable_weight, settings.undesirable_weight)
        rewards = settings.beta * gains.detach()
        measured = {
            "rewards/chosen": rewards[desirable],
            "rewards/rejected": rewards[~desirable],
            "rewards/accuracy": ((rewards > settings.beta * drift) == desirable).float(),
            "kl": torch.full_like(rewards, drift),
        }
        return BatchLoss((weights * losses).sum(), measured)

    return Objective(kto_examples, _row_count, judge_of, needs_reference=True)


def _distill(settings: Distillation) -> Objective:
    def judge(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        hidden, head = target_states(model, batch)
        learnt, counted = (batch.targets, batch.weights), batch.weights > 0
        place = (batch.examples, len(batch.targets), batch.ids.device)
        if isinstance(batch.examples[0], CrossTokenizerExample):
            found = cross_tokenizer_loss(
                hidden, head, learnt, cross_tokenizer_distribution(*place), settings
            )
            named = {"cross_entropy": found[1][counted], "divergence": found[2]}
            return BatchLoss(found[0], named)
        lesson = teacher_distribution(*place)
        loss, entropies, apart = LinearDivergence.apply(hidden, head, learnt, lesson, settings)
        return BatchLoss(loss, {"cross_entropy": entropies[counted], "divergence": apart[counted]})

    return Objective(sft_examples, _learnt_tokens, _batch_only(judge))


def _custom(settings: CustomLoss) -> Objective:
    loss = load_loss(settings)

    def judge(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        return BatchLoss(
            torch.stack(compute_losses(loss, batch, *target_states(model, batch))).sum()
        )

    return Objective(row_examples, _row_count, _batch_only(judge))


def _grpo(settings: Grpo) -> Objective:
    def judge(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        groups = [row for row in batch.examples if isinstance(row, RolloutGroup)]
        logprobs = logprobs_at_temperature(model, batch, settings.temperature)
        now = logprobs.detach()
        old = _tokens([row.old for row in groups], now)
        held = _tokens([row.reference for row in groups], now)
        each = [advantage for row in groups for advantage in row.advantages]
        lengths = _lengths(batch)
        gains = torch.tensor(each, device=now.device)[batch.answer_index]
        high = settings.clip if settings.clip_high is None else settings.clip_high
        losses = reinforcement.clipped_surrogate(logprobs, old, gains, (settings.clip, high))
        # The ratio makes the gradient that of the reverse KL divergence itself, without bias
        # (DeepSeek-V3.2, 2025, arXiv:2512.02556).
        apart = reinforcement.estimate_kl(logprobs, held) * (logprobs - old).exp()
        weights = batch.weights
        if settings.loss == "grpo":
            weights = weights / lengths[batch.answer_index]
        learnt = batch.weights > 0
        ratio = (now - old).exp()
        cut = (ratio < 1 - settings.clip) | (ratio > 1 + high)
        measured = {"kl": apart.detach()[learnt], "clipped": cut.float()[learnt]}
        return BatchLoss(((losses + settings.beta * apart) * weights).sum(), measured)

    def examples(rows: Sequence[Row], encode: Encode) -> list[Example]:
        return rollout_groups(rows, encode, settings.answers, settings.max_new_tokens)

    weight = _GRPO_WEIGHTS[settings.loss]
    return Objective(examples, weight, _batch_only(judge), audit_row=without_answer)


def logprobs_at_temperature(
    model: PreTrainedModel, batch: PackedBatch, temperature: float
) -> torch.Tensor:
    """(places,): the log-probability of each learnt token, as it is drawn at that temperature."""
    hidden, head = target_states(model, batch)
    found: torch.Tensor = LinearLogProbs.apply(hidden / temperature, head, batch.targets)
    return found


def _tokens(known: Sequence[Sequence[float]], now: torch.Tensor) -> torch.Tensor:
    """What is known of the tokens of a batch's groups; without it, what they are `now`."""
    numbers = [number for group in known for number in group]
    if not numbers:
        return now
    spare = torch.zeros(len(now) - len(numbers), device=now.device)
    return torch.cat([torch.tensor(numbers, device=now.device), spare])


#: `train.objective.kind` → the objective with its settings.
OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "sft": _sft,
    "dpo": _dpo,
    "orpo": _orpo,
    "simpo": _simpo,
    "kto": _kto,
    "distil": _distill,
    "grpo": _grpo,
    "custom": _custom,
}


def _batch_only(judge: LossFn) -> Callable[[PreTrainedModel, Sequence[Example], int], LossFn]:
    """A judge that looks at nothing but its batch."""
    return lambda model, rows, most_tokens: judge


def _learnt_tokens(rows: Sequence[Example]) -> float:
    return sum(sum(answer.weights) for answer in all_answers(rows))


def _row_count(rows: Sequence[Example]) -> float:
    return len(rows)


def _answers(rows: Sequence[Example]) -> float:
    return sum(len(row.answers) for row in rows)


def _max_answer_tokens(rows: Sequence[Example]) -> float:
    return sum(
        len(row.answers) * row.max_new_tokens for row in rows if isinstance(row, RolloutGroup)
    )


#: `train.objective.loss` of GRPO → what a step's summed loss is divided by.
_GRPO_WEIGHTS: dict[str, Callable[[Sequence[Example]], float]] = {
    "dapo": _learnt_tokens,
    "grpo": _answers,
    "dr_grpo": _max_answer_tokens,
}


def _preference_examples(batch: PackedBatch) -> list[PreferenceExample]:
    return [row for row in batch.examples if isinstance(row, PreferenceExample)]


def _reference_logprobs(batch: PackedBatch) -> torch.Tensor:
    """(answers,): log-probabilities of a batch's answers before training."""
    known = [
        chance
        for row in _preference_examples(batch)
        for chance in row.reference[: len(row.answers)]
    ]
    return torch.tensor(known, device=batch.ids.device)


def _lengths(batch: PackedBatch) -> torch.Tensor:
    """(answers,): how many tokens of each answer are learnt."""
    lengths = [float(answer.target_count) for answer in all_answers(batch.examples)]
    return torch.tensor(lengths, device=batch.ids.device)


def _split_pairs(answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(2 x pairs,) → those of the chosen answers, those of the rejected ones."""
    return answers[::2], answers[1::2]


def _pair_metrics(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a step of pairs measures beside its loss."""
    return {
        "rewards/chosen": chosen.detach(),
        "rewards/rejected": rejected.detach(),
        "rewards/accuracy": (chosen > rejected).float(),
    }


@torch.no_grad()
def _estimate_kl(model: PreTrainedModel, rows: Sequence[Example], most_tokens: int) -> float:
    """Mean gain of a step's mismatched answers, at least 0: what KTO takes for the divergence."""
    apart = [
        PreferenceExample((row.mismatched,), reference=row.reference[-1:])
        for row in rows
        if isinstance(row, PreferenceExample) and row.mismatched
    ]
    total = 0.0
    for some in batches_of(model, apart, most_tokens):
        batch = pack(some, model.device)
        total += float((answer_logprobs(model, batch) - _reference_logprobs(batch)).sum())
    return max(total / len(apart), 0.0) if apart else 0.0
