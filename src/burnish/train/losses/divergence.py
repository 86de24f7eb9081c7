"""How far a student's distribution is from its teacher's, over the tokens that the teacher kept.

A distribution is `k` likeliest tokens of the teacher and one bucket for all others together; with
`k` as large as the vocabulary it is the whole one. Merging the others can only lower a divergence
(the data-processing inequality), and it holds the student to their sum.
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

#: Chances below this are taken to be this: a logarithm must exist.
_LEAST = 1e-20


@dataclass(frozen=True, slots=True)
class TeacherDistribution:
    """What a teacher says at `n` places: `tokens` (n, k), likeliest first; `logprobs` (n, k + 1),
    natural, at the temperature; the last column is that of all other tokens together."""

    tokens: torch.Tensor
    logprobs: torch.Tensor


def teacher_distribution(
    rows: Sequence[Example], length: int, device: torch.device
) -> TeacherDistribution:
    """What the teacher says at the `length` learnt places of a batch; the spare ones at its end,
    which weigh nothing, hold an even distribution."""
    taught = [row for row in rows if isinstance(row, DistillationExample)]
    tokens = np.concatenate([row.tokens for row in taught])
    logprobs = np.concatenate([row.logprobs for row in taught])
    spare, kept_tokens = length - len(tokens), tokens.shape[1]
    tokens = np.concatenate([tokens, np.tile(np.arange(kept_tokens), (spare, 1))])
    even = np.full((spare, kept_tokens + 1), -np.log(kept_tokens + 1), dtype=np.float32)
    return TeacherDistribution(
        torch.from_numpy(tokens.astype(np.int64)).to(device),
        torch.from_numpy(np.concatenate([logprobs, even])).to(device),
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
    ours, theirs = (forward_kl(side, mixture, beta) for side in (student, teacher))
    return beta * theirs + (1 - beta) * ours


#: `train.objective.divergence` → the divergence.
DIVERGENCES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}


def top_k_logprobs(logits: torch.Tensor, temperature: float, top_k: int) -> TeacherDistribution:
    """The lesson in a teacher's logits (n, vocabulary), float32; they are overwritten."""
    logits = logits.div_(temperature)
    norm = logits.logsumexp(-1, keepdim=True)
    found = logits.topk(min(top_k, logits.shape[-1]), -1)
    others = torch.softmax(logits, -1, out=logits).scatter_(1, found.indices, 0.0).sum(-1)
    logprobs = torch.cat([found.values - norm, others.clamp_min(_LEAST).log()[:, None]], -1)
    return TeacherDistribution(found.indices, logprobs)


class LinearDivergence(torch.autograd.Function):
    """Cross-entropy and divergence of `softmax(hidden @ weight.T)`, mixed, weighted and summed.

    Chunk by chunk as `LinearCrossEntropy`, and with its two products: both losses share the logits,
    and their gradients are one matrix. The divergence's derivative by the log-probabilities of the
    buckets is taken by autograd, over k + 1 columns; from there to the logits it is, for a student
    `q` at temperature T, derivatives `g` and their sum `G`,

        (g_i - q_i G) / T        for a kept token
        q_j (g_o / q_o - G) / T  for any other one, with q_o the chance of all of those together

    so that the vocabulary is passed over as often as by cross-entropy alone, and twice more.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        learnt: tuple[torch.Tensor, torch.Tensor],
        lesson: TeacherDistribution,
        settings: Distillation,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """hidden (n, d), weight (vocabulary, d), learnt: targets and their weights, each (n,) →
        the mixed loss (a scalar), and cross-entropy and divergence (times T squared) of each place,
        which have no gradient."""
        targets, weights = learnt
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        if weight is not None and ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
        entropies = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        apart = torch.empty_like(entropies)
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], weight)
            here = TeacherDistribution(lesson.tokens[part], lesson.logprobs[part])
            entropies[part], apart[part], grad = _mix_losses(logits, targets[part], here, settings)
            scale = weights[part, None].to(hidden.dtype)
            grad = grad.to(hidden.dtype)
            grad_hidden[part] = head_gradient(grad, weight).mul_(scale)
            if grad_weight is not None:
                grad_weight += grad.T @ (hidden[part] * scale)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(entropies, apart)
        share = settings.weight
        total = ((1 - share) * entropies + share * apart) @ weights.float()
        return total, entropies, apart

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Scale the gradients that the forward pass took."""
        hidden, weight = ctx.saved_tensors
        scale = grad.to(hidden.dtype)
        return hidden * scale, None if weight is None else weight * scale, None, None, None


def _mix_losses(
    logits: torch.Tensor, targets: torch.Tensor, lesson: TeacherDistribution, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropies, divergences times T squared, and the mixed loss's derivative by the logits,
    which are overwritten."""
    heat, share = settings.temperature, settings.weight
    norm = logits.logsumexp(-1)
    entropies = norm - logits.gather(1, targets[:, None]).squeeze(1)
    cool = None if heat == 1 else torch.softmax(logits, -1)
    if cool is not None:
        norm = logits.div_(heat).logsumexp(-1)
    top = logits.gather(1, lesson.tokens) - norm[:, None]
    chances = torch.softmax(logits, -1, out=logits)
    others = chances.scatter_(1, lesson.tokens, 0.0).sum(-1).clamp_min_(_LEAST)
    student = torch.cat([top, others.log()[:, None]], -1)
    apart, slopes = _divergence_and_gradient(lesson.logprobs, student, settings)
    together = slopes.sum(-1)
    # T squared times 1 / T.
    for_others = share * heat * (slopes[:, -1] / others - together)
    for_top = share * heat * (slopes[:, :-1] - top.exp() * together[:, None])
    if cool is None:
        for_others += 1 - share
        for_top += (1 - share) * top.exp()
    grad = chances.mul_(for_others[:, None]).scatter_(1, lesson.tokens, for_top)
    if cool is not None:
        grad.add_(cool, alpha=1 - share)
    ones = torch.full_like(norm, share - 1)
    return entropies, heat**2 * apart, grad.scatter_add_(1, targets[:, None], ones[:, None])


def _divergence_and_gradient(
    teacher: torch.Tensor, student: torch.Tensor, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergences (n,), and their derivatives by the student's log-probabilities (n, k + 1)."""
    with torch.enable_grad():
        leaf = student.detach().requires_grad_()
        apart = DIVERGENCES[settings.divergence](teacher, leaf, settings.beta)
        slopes = torch.autograd.grad(apart.sum(), leaf)[0]
    return apart.detach(), slopes
