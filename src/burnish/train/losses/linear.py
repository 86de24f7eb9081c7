"""Losses as pure functions of tensors, summed; the caller divides once per step.

Each takes `hidden` states and the `weight` of a linear head. Where a model's logits aren't that
product (a bias, a soft cap), it computes them itself: `hidden` are then logits, and `weight` None.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T` against targets, weighted and summed.

    Logits exist for one chunk at a time, and their gradient is taken while they do, so that the
    memory is that of a chunk and not of positions × vocabulary (the idea of Liger Kernel, Hsu et
    al. 2024, arXiv:2410.10989, and Cut Cross-Entropy, Wijmans et al. 2024, arXiv:2411.09009).
    """

    CHUNK = 128

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """hidden (n, d), weight (vocabulary, d), targets (n,), weights (n,) → scalar, float32."""
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        if weight is not None and ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], weight)
            chosen = logits.gather(1, targets[part, None]).squeeze(1)
            highest, where = logits.max(-1)
            chances = torch.softmax(logits, -1, out=logits)
            # The highest chance is at least 1 / vocabulary, so its logarithm is always exact.
            norm = highest - chances.gather(1, where[:, None]).squeeze(1).log()
            total += ((norm - chosen) * weights[part]).sum()
            chances.scatter_add_(1, targets[part, None], torch.full_like(norm, -1.0)[:, None])
            grad = chances.to(hidden.dtype)
            scale = weights[part, None].to(hidden.dtype)
            grad_hidden[part] = head_gradient(grad, weight).mul_(scale)
            if grad_weight is not None:
                grad_weight += grad.T @ (hidden[part] * scale)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Scale the gradients that the forward pass took."""
        hidden, weight = ctx.saved_tensors
        scale = grad.to(hidden.dtype)
        return hidden * scale, None if weight is None else weight * scale, None, None


class LinearLogProbs(torch.autograd.Function):
    """The log-probability (natural) of each target under `softmax(hidden @ weight.T)`.

    Chunk by chunk as above, for losses that aren't a sum over tokens: what each token passes on to
    its hidden state is known before its share in the loss is.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """hidden (n, d), weight (vocabulary, d), targets (n,) → (n,), float32."""
        found = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        inward = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in _chunks(hidden):
            logits = head_logits(hidden[part], weight)
            found[part] = logits.gather(1, targets[part, None]).squeeze(1) - logits.logsumexp(-1)
            if inward is not None:
                grad = _surprise(logits, targets[part]).to(hidden.dtype)
                inward[part] = head_gradient(grad, weight)
        ctx.save_for_backward(hidden, weight, targets, inward)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Scale what each token passes on; logits are computed again only if the weight moves."""
        hidden, weight, targets, inward = ctx.saved_tensors
        scale = grad[:, None].to(hidden.dtype)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            for part in _chunks(hidden):
                logits = head_logits(hidden[part], weight)
                own = _surprise(logits, targets[part]).to(hidden.dtype)
                grad_weight += own.T @ (hidden[part] * scale[part])
        return None if inward is None else inward * scale, grad_weight, None


def head_logits(hidden: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Return logits (n, vocabulary) as a float32 tensor that may be overwritten."""
    if weight is None:
        return hidden.to(torch.float32, copy=True)
    return (hidden @ weight.T).float()


def head_gradient(grad: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Return the gradient of the hidden states from that of the logits."""
    return grad.clone() if weight is None else grad @ weight


def _chunks(hidden: torch.Tensor) -> list[slice]:
    step = LinearCrossEntropy.CHUNK
    return [slice(begin, begin + step) for begin in range(0, len(hidden), step)]


def _surprise(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-probability's derivative by the logits: 1 at the target, minus all chances."""
    chances = torch.softmax(logits, -1)
    ones = torch.ones_like(targets, dtype=chances.dtype)[:, None]
    return chances.neg_().scatter_add_(1, targets[:, None], ones)
