"""Cross-entropy and log-probabilities of a linear head, without all logits in memory.

Losses are summed; the caller divides once per step. Each takes `hidden` states and the `weight` of
a linear head. Where a model's logits aren't that product (a bias, a soft cap), it computes them
itself: `hidden` are then logits, and `weight` is None.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T` against targets, weighted and summed.

    Logits exist for one chunk at a time, and their gradient is computed while they do, so that the
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
            target_logits = logits.gather(1, targets[part, None]).squeeze(1)
            highest, argmax = logits.max(-1)
            probabilities = torch.softmax(logits, -1, out=logits)
            # The highest probability is at least 1 / vocabulary, so its logarithm is always exact.
            norm = highest - probabilities.gather(1, argmax[:, None]).squeeze(1).log()
            total += ((norm - target_logits) * weights[part]).sum()
            probabilities.scatter_add_(1, targets[part, None], torch.full_like(norm, -1.0)[:, None])
            grad = probabilities.to(hidden.dtype)
            scale = weights[part, None].to(hidden.dtype)
            grad_hidden[part] = head_gradient(grad, weight).mul_(scale)
            if grad_weight is not None:
                grad_weight += grad.T @ (hidden[part] * scale)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Scale the gradients that the forward pass computed."""
        hidden, weight = ctx.saved_tensors
        scale = grad.to(hidden.dtype)
        return hidden * scale, None if weight is None else weight * scale, None, None


class LinearLogProbs(torch.autograd.Function):
    """The log-probability (natural) of each target under `softmax(hidden @ weight.T)`.

    Chunk by chunk as above, for losses that aren't a sum over tokens: the gradient of each token's
    log-probability by its hidden state is known before the token's share in the loss is.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """hidden (n, d), weight (vocabulary, d), targets (n,) → (n,), float32."""
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        token_grads = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in _chunks(hidden):
            logits = head_logits(hidden[part], weight)
            logprobs[part] = logits.gather(1, targets[part, None]).squeeze(1) - logits.logsumexp(-1)
            if token_grads is not None:
                logit_grads = _logprob_gradient(logits, targets[part]).to(hidden.dtype)
                token_grads[part] = head_gradient(logit_grads, weight)
        ctx.save_for_backward(hidden, weight, targets, token_grads)
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Scale the tokens' gradients; logits are recomputed only for the weight's gradient."""
        hidden, weight, targets, token_grads = ctx.saved_tensors
        scale = grad[:, None].to(hidden.dtype)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            for part in _chunks(hidden):
                logits = head_logits(hidden[part], weight)
                logit_grads = _logprob_gradient(logits, targets[part]).to(hidden.dtype)
                grad_weight += logit_grads.T @ (hidden[part] * scale[part])
        return None if token_grads is None else token_grads * scale, grad_weight, None


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


def _logprob_gradient(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability's derivative by the logits: 1 at the target, minus softmax."""
    probabilities = torch.softmax(logits, -1)
    ones = torch.ones_like(targets, dtype=probabilities.dtype)[:, None]
    return probabilities.neg_().scatter_add_(1, targets[:, None], ones)
