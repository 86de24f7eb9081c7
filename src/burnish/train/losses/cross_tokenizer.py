"""How far a student is from a teacher that has other tokens.

Wherever both tokenizations of the answer have a boundary (train.alignment), both models have read
the same text and say how it goes on. What can go on is put into events that both can weigh:

- the text up to the next common boundary, by the chain rule over its tokens (approximate likelihood
  matching, Minixhofer et al. 2025, arXiv:2503.20083);
- each of the teacher's likeliest tokens that is a token of the student too, as the same text;
- everything else together.

The events of one side exclude each other and their chances sum to 1, so any divergence of
distributions holds. With the same tokens on both sides it is the divergence of train.divergence
over the teacher's likeliest tokens and the one in the row. Universal logit distillation (Boizard
et al. 2024, arXiv:2402.12030) compares sorted chances instead, whatever they are chances of; here
what has no counterpart is left to the last event.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from burnish.core.recipe.objectives import Distillation
from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.examples import CrossTokenizerExample, Example
from burnish.train.batching.token_alignment import TokenAligner, target_tokens
from burnish.train.losses.divergence import DIVERGENCES, TeacherDistribution
from burnish.train.losses.linear import (
    LinearCrossEntropy,
    LinearLogProbs,
    head_gradient,
    head_logits,
)

#: The rest of a distribution is known no better than this, in float32.
_LEAST = 1e-7
#: The logarithm of an event that isn't there, on both sides: it adds nothing.
_ABSENT = -46.0


def align_teacher_logprobs(
    ours: TokenizedRow,
    theirs: TokenizedRow,
    said: tuple[np.ndarray, np.ndarray],
    pairing: TokenAligner,
) -> tuple[np.ndarray, np.ndarray]:
    """What a teacher has `said` at the learnt places of `theirs`, as `Matched` keeps it of `ours`.

    `said`: its likeliest tokens (places, k), and the log-probabilities (places, 1 + k) of the
    learnt token and of those.
    """
    tokens, logprobs = said
    mine, their = target_tokens(ours), target_tokens(theirs)
    kept = tokens.shape[1]
    found = np.full((len(mine), 1 + kept), -1, dtype=np.int32)
    found[:, 0] = 0
    logs = np.full((len(mine), kept + 2), _ABSENT, dtype=np.float32)
    for span in pairing.align(ours, theirs):
        (begin, end), (first, last) = span.student, span.teacher
        words = pairing.token_map(span.leading_spaces)[tokens[first]]
        known = (words >= 0) & (words != mine[begin]) & (tokens[first] != their[first])
        _, unlike = np.unique(words, return_index=True)
        places = np.array([place for place in sorted(unlike) if known[place]], dtype=np.int64)
        own, others = logprobs[first:last, 0].sum(), logprobs[first, 1:][places]
        rest = 1 - np.exp(own) - np.exp(others).sum()
        found[begin, 0] = end - begin
        found[begin, 1 : 1 + len(places)] = words[places]
        logs[begin, 0], logs[begin, -1] = own, np.log(max(rest, _LEAST))
        logs[begin, 1 : 1 + len(places)] = others
    return found, logs


def cross_tokenizer_distribution(
    rows: Sequence[Example], length: int, device: torch.device
) -> TeacherDistribution:
    """What the teacher says at the `length` learnt places of a batch; at the spare ones nothing."""
    some = [row for row in rows if isinstance(row, CrossTokenizerExample)]
    tokens = np.concatenate([row.tokens for row in some]).astype(np.int64)
    logprobs = np.concatenate([row.logprobs for row in some])
    spare = ((0, length - len(tokens)), (0, 0))
    return TeacherDistribution(
        torch.from_numpy(np.pad(tokens, spare)).to(device),
        torch.from_numpy(np.pad(logprobs, spare)).to(device),
    )


def cross_tokenizer_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    learnt: tuple[torch.Tensor, torch.Tensor],
    lesson: TeacherDistribution,
    settings: Distillation,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden (n, d), weight (vocabulary, d), learnt: targets and their weights, each (n,) → the
    mixed loss (a scalar), the cross-entropy of each place and the divergence (times T squared) of
    each span."""
    (targets, weights), heat, share = learnt, settings.temperature, settings.weight
    lengths, words = lesson.tokens[:, 0], lesson.tokens[:, 1:]
    begins = lengths.nonzero().squeeze(1)
    wanted = torch.cat([targets[:, None], words.clamp_min(0)], 1)
    found = LinearTokenLogProbs.apply(hidden / heat, weight, wanted)
    own = found[:, 0]
    entropies = -own if heat == 1 else -LinearLogProbs.apply(hidden, weight, targets)
    here = torch.where(words[begins] < 0, _ABSENT, found[begins, 1:])
    text = _sum_spans(own, begins, lengths[begins])
    rest = (1 - text.exp() - here.exp().sum(-1)).clamp_min(_LEAST).log()
    ours = torch.cat([text[:, None], here, rest[:, None]], 1)
    divergence = DIVERGENCES[settings.divergence]
    apart = heat**2 * divergence(lesson.logprobs[begins], ours, settings.beta)
    loss = (1 - share) * (entropies @ weights) + share * (apart @ weights[begins])
    return loss, entropies.detach(), apart.detach()


def _sum_spans(own: torch.Tensor, begins: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The log-probabilities (n,) of the tokens of each span, summed: (spans,)."""
    steps = torch.arange(int(lengths.max()) if len(lengths) else 0, device=own.device)
    places = (begins[:, None] + steps).clamp_max(len(own) - 1)
    return (own[places] * (steps < lengths[:, None])).sum(-1)


class LinearTokenLogProbs(torch.autograd.Function):
    """The log-probabilities (natural) of some tokens under `softmax(hidden @ weight.T)`.

    Chunk by chunk as `LinearLogProbs`; the backward pass computes the logits again.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor | None, tokens: torch.Tensor
    ) -> torch.Tensor:
        """hidden (n, d), weight (vocabulary, d), tokens (n, k) → (n, k), float32."""
        found = torch.empty(tokens.shape, dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], weight)
            found[part] = logits.gather(1, tokens[part]) - logits.logsumexp(-1, keepdim=True)
        ctx.save_for_backward(hidden, weight, tokens)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Of a logit: its own share of `grad`, less its chance times the sum of all."""
        hidden, weight, tokens = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], weight)
            slopes = torch.softmax(logits, -1).mul_(-grad[part].sum(-1, keepdim=True))
            slopes = slopes.scatter_add_(1, tokens[part], grad[part]).to(hidden.dtype)
            grad_hidden[part] = head_gradient(slopes, weight)
            if grad_weight is not None:
                grad_weight += slopes.T @ hidden[part]
        return grad_hidden, grad_weight, None
