"""Divergence of a student's distribution from its teacher's, over the teacher's top-k tokens.

A distribution is the teacher's `k` likeliest tokens and one bucket for all others together; with
`k` as large as the vocabulary it is complete. Merging the others can only lower a divergence (the
data-processing inequality), and it still constrains the student's probability of their sum.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from burnish.core.recipe.objectives import Distillation
from burnish.train.batching.examples import DistillationExample, Example
from burnish.train.losses.linear import LinearCrossEntropy, head_gradient, head_logits

#: Probabilities are clamped to this: their logarithm must exist.
_LEAST = 1e-20


@dataclass(frozen=True, slots=True)
class TeacherDistribution:
    """A teacher's distributions at `n` targets: `tokens` (n, k), likeliest first; `logprobs`
    (n, k + 1), natural, at the temperature; the last column is that of all other tokens."""

    tokens: torch.Tensor
    logprobs: torch.Tensor


def teacher_distribution(
    rows: Sequence[Example], length: int, device: torch.device
) -> TeacherDistribution:
    """Return the teacher's distributions at the `length` targets of a batch; padding at its end,
    whose weights are 0, has a uniform distribution."""
    examples = [row for row in rows if isinstance(row, DistillationExample)]
    tokens = np.concatenate([row.tokens for row in examples])
    logprobs = np.concatenate([row.logprobs for row in examples])
    padding, top_k = length - len(tokens), tokens.shape[1]
    tokens = np.concatenate([tokens, np.tile(np.arange(top_k), (padding, 1))])
    uniform = np.full((padding, top_k + 1), -np.log(top_k + 1), dtype=np.float32)
    return TeacherDistribution(
        torch.from_numpy(tokens.astype(np.int64)).to(device),
        torch.from_numpy(np.concatenate([logprobs, uniform])).to(device),
    )


def forward_kl(teacher: torch.Tensor, student: torch.Tensor, beta: float) -> torch.Tensor:
    """KL(teacher, student) of log-probabilities (n, buckets) → (n,) (Hinton et al. 2015)."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def reverse_kl(teacher: torch.Tensor, student: torch.Tensor, beta: float) -> torch.Tensor:
    """KL(student, teacher) of log-probabilities (n, buckets) → (n,) (Gu et al. 2023,
    arXiv:2306.08543)."""
    return (student.exp() * (student - teacher)).sum(-1)


def jsd(teacher: torch.Tensor, student: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence (Agarwal et al. 2024, arXiv:2306.13649, eq. 1):
    (n, buckets) → (n,). `beta` is the teacher's share of the mixture."""
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    student_kl, teacher_kl = (forward_kl(side, mixture, beta) for side in (student, teacher))
    return beta * teacher_kl + (1 - beta) * student_kl


#: `train.objective.divergence` → the divergence.
DIVERGENCES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}


def top_k_logprobs(logits: torch.Tensor, temperature: float, top_k: int) -> TeacherDistribution:
    """Return the distributions of a teacher's logits (n, vocabulary), float32, which are
    overwritten."""
    logits = logits.div_(temperature)
    norm = logits.logsumexp(-1, keepdim=True)
    top = logits.topk(min(top_k, logits.shape[-1]), -1)
    others = torch.softmax(logits, -1, out=logits).scatter_(1, top.indices, 0.0).sum(-1)
    logprobs = torch.cat([top.values - norm, others.clamp_min(_LEAST).log()[:, None]], -1)
    return TeacherDistribution(top.indices, logprobs)


class LinearDivergence(torch.autograd.Function):
    """Cross-entropy and divergence of `softmax(hidden @ weight.T)`, mixed, weighted and summed.

    Chunk by chunk as `LinearCrossEntropy`, and with its two products: both losses share the logits,
    and their gradients are one matrix. The divergence's derivative by the log-probabilities of the
    buckets is computed by autograd, over k + 1 columns; from there to the logits it is, for a
    student `q` at temperature T, derivatives `g` and their sum `G`,

        (g_i - q_i G) / T        for a top-k token
        q_j (g_o / q_o - G) / T  for any other one, with q_o the probability of all of those

    so that the vocabulary is passed over as often as by cross-entropy alone, and twice more.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        targets_and_weights: tuple[torch.Tensor, torch.Tensor],
        teacher: TeacherDistribution,
        settings: Distillation,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """hidden (n, d), weight (vocabulary, d), targets_and_weights, each (n,) → the mixed loss (a
        scalar), and cross-entropy and divergence (times T squared) of each target, which have no
        gradient."""
        targets, weights = targets_and_weights
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        if weight is not None and ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
        entropies = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        divergences = torch.empty_like(entropies)
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], weight)
            chunk = TeacherDistribution(teacher.tokens[part], teacher.logprobs[part])
            entropies[part], divergences[part], grad = _mix_losses(
                logits, targets[part], chunk, settings
            )
            scale = weights[part, None].to(hidden.dtype)
            grad = grad.to(hidden.dtype)
            grad_hidden[part] = head_gradient(grad, weight).mul_(scale)
            if grad_weight is not None:
                grad_weight += grad.T @ (hidden[part] * scale)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(entropies, divergences)
        share = settings.weight
        total = ((1 - share) * entropies + share * divergences) @ weights.float()
        return total, entropies, divergences

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Scale the gradients that the forward pass computed."""
        hidden, weight = ctx.saved_tensors
        scale = grad.to(hidden.dtype)
        return hidden * scale, None if weight is None else weight * scale, None, None, None


def _mix_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    teacher: TeacherDistribution,
    settings: Distillation,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return cross-entropies, divergences times T squared, and the mixed loss's derivative by the
    logits, which are overwritten."""
    temperature, share = settings.temperature, settings.weight
    norm = logits.logsumexp(-1)
    entropies = norm - logits.gather(1, targets[:, None]).squeeze(1)
    plain_probabilities = None if temperature == 1 else torch.softmax(logits, -1)
    if plain_probabilities is not None:
        norm = logits.div_(temperature).logsumexp(-1)
    top = logits.gather(1, teacher.tokens) - norm[:, None]
    probabilities = torch.softmax(logits, -1, out=logits)
    others = probabilities.scatter_(1, teacher.tokens, 0.0).sum(-1).clamp_min_(_LEAST)
    student_logprobs = torch.cat([top, others.log()[:, None]], -1)
    divergences, bucket_grads = _divergence_and_gradient(
        teacher.logprobs, student_logprobs, settings
    )
    grad_sum = bucket_grads.sum(-1)
    # T squared times 1 / T.
    other_grads = share * temperature * (bucket_grads[:, -1] / others - grad_sum)
    top_grads = share * temperature * (bucket_grads[:, :-1] - top.exp() * grad_sum[:, None])
    if plain_probabilities is None:
        other_grads += 1 - share
        top_grads += (1 - share) * top.exp()
    grad = probabilities.mul_(other_grads[:, None]).scatter_(1, teacher.tokens, top_grads)
    if plain_probabilities is not None:
        grad.add_(plain_probabilities, alpha=1 - share)
    ones = torch.full_like(norm, share - 1)
    return (
        entropies,
        temperature**2 * divergences,
        grad.scatter_add_(1, targets[:, None], ones[:, None]),
    )


def _divergence_and_gradient(
    teacher: torch.Tensor, student: torch.Tensor, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return divergences (n,), and their derivatives by the student's log-probabilities
    (n, k + 1)."""
    with torch.enable_grad():
        leaf = student.detach().requires_grad_()
        divergences = DIVERGENCES[settings.divergence](teacher, leaf, settings.beta)
        gradients = torch.autograd.grad(divergences.sum(), leaf)[0]
    return divergences.detach(), gradients
