"""Projections that read the same activations as one product: q, k and v, or gate and up.

One wide product uses the cores better than three narrow ones, and the gradient of what they read
comes out of one product instead of being added up from three. The frozen weights move into one
tensor of which the layers hold views; names and values stay.
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch.autograd.function import once_differentiable


class JointLoraProduct(torch.autograd.Function):
    """`x W_i' + s_i (x A_i') B_i'` for several i at once; of its own it keeps x and all x A_i'."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        scalings: Sequence[float],
        *ab: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """x (tokens, in), weight (sum of outs, in), ab: each a (rank, in), then each b (out, rank).

        Returns one (tokens, out) for each scaling.
        """
        a, b = ab[: len(scalings)], ab[len(scalings) :]
        down = torch.cat(a)
        up = torch.block_diag(*(part * s for part, s in zip(b, scalings, strict=True)))
        inner = x @ down.T
        y = (x @ weight.T).addmm_(inner, up.T)
        ctx.save_for_backward(x, inner, weight, down, up)
        ctx.scalings, ctx.ranks = scalings, [len(part) for part in a]
        return tuple(torch.split(y, [len(part) for part in b], 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, each a and each b; the base is frozen."""
        x, inner, weight, down, up = ctx.saved_tensors
        grad = torch.cat(grads, 1)
        back = grad @ up
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(back, down)
        grad_a = (back.T @ x).split(ctx.ranks)
        parts = zip(grads, inner.split(ctx.ranks, 1), ctx.scalings, strict=True)
        grad_b = [(part.T @ own).mul_(s) for part, own, s in parts]
        return grad_x, None, None, *grad_a, *grad_b


class Joint:
    """LoRA layers that are called one after the other with the same activations."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self.weight = torch.cat([layer.base_layer.weight.data for layer in layers])
        views = self.weight.split([layer.base_layer.out_features for layer in layers])
        for layer, view in zip(layers, views, strict=True):
            layer.base_layer.weight.data = view
        self.reads: torch.Tensor | None = None
        self.parts: list[torch.Tensor] = []

    def part(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """What layer `place` makes of x (..., in). The last one's call ends the group's turn."""
        if self.reads is not x:
            self.reads, self.parts = x, self._compute(x)
        found = self.parts[place]
        if place == len(self.layers) - 1:
            self.reads, self.parts = None, []
        return found

    def _compute(self, x: torch.Tensor) -> list[torch.Tensor]:
        name = self.layers[0].active_adapters[0]
        parts = JointLoraProduct.apply(
            x.flatten(0, -2),
            self.weight,
            [layer.scaling[name] for layer in self.layers],
            *(layer.lora_A[name].weight for layer in self.layers),
            *(layer.lora_B[name].weight for layer in self.layers),
        )
        return [part.view(*x.shape[:-1], -1) for part in parts]


def join(layers: Sequence[Any]) -> None:
    """Compute these LoRA layers together, whenever they are called with the same tensor."""
    group = Joint(layers)
    for place, layer in enumerate(layers):

        def forward(
            self: Any, x: torch.Tensor, *_: Any, place: int = place, **__: Any
        ) -> torch.Tensor:
            return group.part(place, x)

        layer.forward = MethodType(forward, layer)
