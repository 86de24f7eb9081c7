"""Layers that compute what the model's own do, with fewer passes over memory and less kept.

A layer is replaced only where its own code is known, by the class it has; the weights, their names
and what is saved stay as they were.
"""

from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLayer
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation

from burnish.models.quantization.nf4 import dequantize


class LoraProduct(torch.autograd.Function):
    """`x W' + s (x A') B'` in five products, added in place; of its own it keeps x and x A'."""

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
        weight, bias = dequantize(base[0]), base[1]
        inner = x @ a.T
        y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        y.addmm_(inner, b.T, alpha=scaling)
        ctx.save_for_backward(x, inner, a, b)
        # Frozen, and perhaps of 4 bits: kept as it is and made plain again for the gradient.
        ctx.weight, ctx.scaling = base[0], scaling
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x, a and b; the base is frozen."""
        x, inner, a, b = ctx.saved_tensors
        back = (grad @ b).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ dequantize(ctx.weight)
            grad_x.addmm_(back, a)
        return grad_x, None, back.T @ x, (grad.T @ inner).mul_(ctx.scaling), None


class RmsNorm(torch.autograd.Function):
    """Root-mean-square norm (Zhang & Sennrich 2019, arXiv:1910.07467) in float32, keeping only x.

    Returns `weight * (x / rms(x)).to(x.dtype)`, rounded where `transformers` rounds.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:  # type: ignore[override]
        """x (..., width), weight (width,)."""
        exact = x.float()
        scale = torch.rsqrt(torch.linalg.vecdot(exact, exact).div_(x.shape[-1]).add_(eps))
        ctx.save_for_backward(x, weight, scale)
        return (exact * scale[..., None]).to(x.dtype) * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x and, where it moves, of the weight."""
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale[..., None]
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        inward = (grad * weight).float()
        shared = torch.linalg.vecdot(inward, normed).div_(x.shape[-1])
        grad_x = inward.sub_(normed.mul_(shared[..., None])).mul_(scale[..., None])
        return grad_x.to(x.dtype), grad_weight, None


class GatedSilu(torch.autograd.Function):
    """`silu(gate) * up`, keeping the two inputs only."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """gate and up (..., width)."""
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        active = torch.nn.functional.silu(gate)
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, active.mul_(grad)


def lora_forward(product: type[torch.autograd.Function]) -> Callable[..., torch.Tensor]:
    """The forward pass of PEFT's LoRA layer as one product of (x, base, a, b, scaling)."""

    def forward(self: LoraLayer, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        base: Any = self.base_layer
        name = self.active_adapters[0]
        flat: torch.Tensor = product.apply(
            x.flatten(0, -2), (base.weight, base.bias), self.lora_A[name].weight,
            self.lora_B[name].weight, self.scaling[name],
        )  # fmt: skip
        return flat.view(*x.shape[:-1], -1)

    return forward


def _norm_forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon)
    return normed


def _gated_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    down: torch.Tensor = self.down_proj(GatedSilu.apply(self.gate_proj(x), self.up_proj(x)))
    return down


def is_plain_lora(layer: Any) -> bool:
    """LoRA on a frozen linear layer, without dropout, bias of its own, or a variant (DoRA, ...)."""
    return (
        (type(layer) is LoraLayer and type(layer.base_layer) is torch.nn.Linear)
        or _is_quantized_lora(layer)
    ) and _adds_a_product_only(layer)


def _adds_a_product_only(layer: Any) -> bool:
    return (
        not layer.lora_variant
        and not any(layer.lora_bias.values())
        and all(isinstance(drop, torch.nn.Identity) for drop in layer.lora_dropout.values())
    )


def _is_quantized_lora(layer: Any) -> bool:
    """LoRA on weights of 4 bits; PEFT has that class only where bitsandbytes is."""
    return (
        type(layer).__module__ == "peft.tuners.lora.bnb"
        and type(layer).__name__ == "Linear4bit"
        and layer.base_layer.weight.device.type == "cpu"
    )


def _is_norm(layer: torch.nn.Module) -> bool:
    return type(layer).__name__ in {f"{family}RMSNorm" for family in _FAMILIES}


def _is_gated(layer: torch.nn.Module) -> bool:
    known = type(layer).__name__ in {f"{family}MLP" for family in _FAMILIES}
    return known and isinstance(layer.act_fn, torch.nn.SiLU | SiLUActivation)


#: Model families whose norms and gates are Llama's; `transformers` copies their code.
_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3")

#: Which layers are known, and what they compute instead.
FUSED: tuple[tuple[Callable[[torch.nn.Module], bool], Callable[..., torch.Tensor]], ...] = (
    (is_plain_lora, lora_forward(LoraProduct)),
    (_is_norm, _norm_forward),
    (_is_gated, _gated_forward),
)


def fuse(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Replace the computation of every known layer. Returns the layers that were replaced."""
    fused = []
    for layer in model.modules():
        for known, forward in FUSED:
            if known(layer):
                layer.forward = MethodType(forward, layer)  # type: ignore[method-assign]
                fused.append(layer)
    return fused


def unfuse(layers: Iterable[torch.nn.Module]) -> None:
    """Give layers that `fuse` replaced their own computation again."""
    for layer in layers:
        vars(layer).pop("forward", None)
