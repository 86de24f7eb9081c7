"""Quantization-aware fine-tuning: training with the weights that a 4-bit file will have.

Each pass computes with the rounded weights (with LoRA: the adapter merged, then rounded), and the
gradient goes to the exact ones as if nothing had been rounded: the straight-through estimator
(Bengio et al. 2013, arXiv:1308.3432; Jacob et al. 2017, arXiv:1712.05877). Validation computes with
the rounded weights too, so the best checkpoint is the one that is best after rounding.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLayer
from torch.autograd.function import once_differentiable

from burnish.models.quantization.q4_0 import round_to_q4_0, rounded_layers
from burnish.train.adapters.registry import language_model
from burnish.train.kernels.fused_layers import lora_forward


class _RoundWeight(torch.autograd.Function):
    """A rounded weight, whose gradient goes to the exact one."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """weight (out, in)."""
        return round_to_q4_0(weight).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Pass the gradient through."""
        return grad


class _RoundedLora(torch.autograd.Function):
    """`x Q(W + s B A)'`: the gradients of A and B are LoRA's, that of x uses the rounded weight."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        base: tuple[torch.Tensor, torch.Tensor | None],
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """x (tokens, in), base: weight (out, in) and bias (out,), a (rank, in), b (out, rank)."""
        merged = base[0].float().addmm(b.float(), a.float(), alpha=scaling)
        weight = round_to_q4_0(merged).to(x.dtype)
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        return torch.nn.functional.linear(x, weight, base[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x, a and b; the base is frozen."""
        x, weight, a, b = ctx.saved_tensors
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        grad_a = (grad @ b).mul_(ctx.scaling).T @ x
        return grad_x, None, grad_a, (grad.T @ (x @ a.T)).mul_(ctx.scaling), None


def _linear(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, _RoundWeight.apply(self.weight), self.bias)


_lora = lora_forward(_RoundedLora)


def use_rounded_weights(model: torch.nn.Module) -> None:
    """Make every layer that will be rounded compute with its rounded weight; call it after `fuse`.

    LoRA's own matrices stay exact: they are merged before anything is rounded.
    """
    rounded = set(rounded_layers(language_model(model)))
    adapted = {layer for layer in model.modules() if isinstance(layer, LoraLayer)}
    inside = {part for layer in adapted for part in layer.modules()}
    for layer in rounded - inside:
        layer.forward = MethodType(_linear, layer)  # type: ignore[method-assign]
    for adapter in adapted:
        if adapter.base_layer in rounded:
            adapter.forward = MethodType(_lora, adapter)  # type: ignore[method-assign]
