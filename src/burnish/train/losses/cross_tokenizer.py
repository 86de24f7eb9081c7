"""Cross-tokenizer distillation: the divergence from a teacher that has another tokenizer.

Where both tokenizations of the answer have a boundary (`batching.token_alignment`), both models
have read the same text and predict what follows. The continuations are grouped into events that
both models have a probability for:

- the text up to the next common boundary, by the chain rule over its tokens (approximate likelihood
  matching, Minixhofer et al. 2025, arXiv:2503.20083);
- each of the teacher's top-k tokens that is also a token of the student, as the same text;
- everything else together.

The events exclude each other and their probabilities sum to 1, so any divergence of distributions
applies. With the same tokens on both sides it is that of `losses.divergence` over the teacher's
top-k tokens and the one in the row. Universal logit distillation (Boizard et al. 2024,
arXiv:2402.12030) compares sorted probabilities instead, whatever their tokens; here tokens without
a counterpart are left to the last event.
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

#: The precision of a distribution's last event, in float32.
_LEAST = 1e-7
#: The logarithm of a missing event, on both sides: it adds nothing.
_ABSENT = -46.0


def align_teacher_logprobs(
    student_row: TokenizedRow,
    teacher_row: TokenizedRow,
    teacher_scores: tuple[np.ndarray, np.ndarray],
    aligner: TokenAligner,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and log-probabilities of a `CrossTokenizerExample` of `student_row`.

    `teacher_scores` are those at the targets of `teacher_row`: top-k tokens (targets, k), and
    the log-probabilities (targets, 1 + k) of the target and of these.
    """
    tokens, logprobs = teacher_scores
    student_targets, teacher_targets = target_tokens(student_row), target_tokens(teacher_row)
    top_k = tokens.shape[1]
    aligned_tokens = np.full((len(student_targets), 1 + top_k), -1, dtype=np.int32)
    aligned_tokens[:, 0] = 0
    aligned_logprobs = np.full((len(student_targets), top_k + 2), _ABSENT, dtype=np.float32)
    for span in aligner.align(student_row, teacher_row):
        (begin, end), (first, last) = span.student, span.teacher
        mapped = aligner.token_map(span.leading_spaces)[tokens[first]]
        is_usable = mapped >= 0
        is_usable &= mapped != student_targets[begin]
        is_usable &= tokens[first] != teacher_targets[first]
        _, unique = np.unique(mapped, return_index=True)
        columns = np.array([column for column in sorted(unique) if is_usable[column]], np.int64)
        target, others = logprobs[first:last, 0].sum(), logprobs[first, 1:][columns]
        rest = 1 - np.exp(target) - np.exp(others).sum()
        aligned_tokens[begin, 0] = end - begin
        aligned_tokens[begin, 1 : 1 + len(columns)] = mapped[columns]
        aligned_logprobs[begin, 0] = target
        aligned_logprobs[begin, -1] = np.log(max(rest, _LEAST))
        aligned_logprobs[begin, 1 : 1 + len(columns)] = others
    return aligned_tokens, aligned_logprobs


def cross_tokenizer_distribution(
    rows: Sequence[Example], length: int, device: torch.device
) -> TeacherDistribution:
    """Return the teacher's events at the `length` targets of a batch; padding has none."""
    examples = [row for row in rows if isinstance(row, CrossTokenizerExample)]
    tokens = np.concatenate([row.tokens for row in examples]).astype(np.int64)
    logprobs = np.concatenate([row.logprobs for row in examples])
    padding = ((0, length - len(tokens)), (0, 0))
    return TeacherDistribution(
        torch.from_numpy(np.pad(tokens, padding)).to(device),
        torch.from_numpy(np.pad(logprobs, padding)).to(device),
    )


def cross_tokenizer_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    targets_and_weights: tuple[torch.Tensor, torch.Tensor],
    teacher: TeacherDistribution,
    settings: Distillation,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden (n, d), weight (vocabulary, d), targets_and_weights, each (n,) → the mixed loss (a
    scalar), the cross-entropy of each target and the divergence (times T squared) of each span."""
    targets, weights = targets_and_weights
    temperature, share = settings.temperature, settings.weight
    lengths, top_tokens = teacher.tokens[:, 0], teacher.tokens[:, 1:]
    begins = lengths.nonzero().squeeze(1)
    scored = torch.cat([targets[:, None], top_tokens.clamp_min(0)], 1)
    logprobs = LinearTokenLogProbs.apply(hidden / temperature, weight, scored)
    target_logprobs = logprobs[:, 0]
    entropies = -target_logprobs
    if temperature != 1:
        entropies = -LinearLogProbs.apply(hidden, weight, targets)
    top = torch.where(top_tokens[begins] < 0, _ABSENT, logprobs[begins, 1:])
    text = _sum_spans(target_logprobs, begins, lengths[begins])
    rest = (1 - text.exp() - top.exp().sum(-1)).clamp_min(_LEAST).log()
    student = torch.cat([text[:, None], top, rest[:, None]], 1)
    divergence = DIVERGENCES[settings.divergence]
    divergences = temperature**2 * divergence(teacher.logprobs[begins], student, settings.beta)
    loss = (1 - share) * (entropies @ weights) + share * (divergences @ weights[begins])
    return loss, entropies.detach(), divergences.detach()


def _sum_spans(logprobs: torch.Tensor, begins: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return (spans,) the sums of log-probabilities (n,) over the tokens of each span."""
    offsets = torch.arange(int(lengths.max()) if len(lengths) else 0, device=logprobs.device)
    positions = (begins[:, None] + offsets).clamp_max(len(logprobs) - 1)
    return (logprobs[positions] * (offsets < lengths[:, None])).sum(-1)


class LinearTokenLogProbs(torch.autograd.Function):
    """The log-probabilities (natural) of k tokens each under `softmax(hidden @ weight.T)`.

    Chunk by chunk as `LinearLogProbs`; the backward pass recomputes the logits.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor | None, tokens: torch.Tensor
    ) -> torch.Tensor:
        """hidden (n, d), weight (vocabulary, d), tokens (n, k) → (n, k), float32."""
        logprobs = torch.empty(tokens.shape, dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], weight)
            logprobs[part] = logits.gather(1, tokens[part]) - logits.logsumexp(-1, keepdim=True)
        ctx.save_for_backward(hidden, weight, tokens)
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """The gradient of a logit: that of its token, minus its probability times their sum."""
        hidden, weight, tokens = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        if weight is not None and ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], weight)
            logit_grads = torch.softmax(logits, -1).mul_(-grad[part].sum(-1, keepdim=True))
            logit_grads = logit_grads.scatter_add_(1, tokens[part], grad[part]).to(hidden.dtype)
            grad_hidden[part] = head_gradient(logit_grads, weight)
            if grad_weight is not None:
                grad_weight += logit_grads.T @ hidden[part]
        return grad_hidden, grad_weight, None
