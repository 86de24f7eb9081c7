"""Several LoRA adapters in one pass: a frozen layer multiplies all rows at once, and each adapter's
own matrices see its rows only.

So mLoRA trains (Ye et al. 2023, arXiv:2312.02515) and Punica serves (Chen et al. 2023,
arXiv:2310.18547).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from burnish.core.errors import BadRecipe
from burnish.models.quantization.nf4 import dequantize
from burnish.train.batching.packed import PackedBatch
from burnish.train.forward.path import ForwardPath, forward_path
from burnish.train.kernels.fused_layers import is_plain_lora


@dataclass
class AdapterSegments:
    """Which adapter the tokens of a pass belong to: names, and how many tokens each has in turn.

    Every adapted layer looks here; it is set before each pass.
    """

    names: Sequence[str] = ()
    lengths: Sequence[int] = field(default=())

    def use_only(self, name: str) -> None:
        """All tokens of the passes to come belong to one adapter."""
        self.names, self.lengths = (name,), ()

    def bounds(self, tokens: int) -> list[tuple[str, int, int]]:
        """Name, begin and end of each part of so many tokens."""
        found, begin = [], 0
        for name, length in zip(self.names, self.lengths or (tokens,), strict=True):
            found.append((name, begin, begin + length))
            begin += length
        return found


class JointLoraProduct(torch.autograd.Function):
    """`x W'`, plus `s (x A') B'` on each part with its own A, B and s (see layers.LoraProduct)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        base: tuple[torch.Tensor, torch.Tensor | None],
        parts: Sequence[tuple[int, int, float]],
        *matrices: torch.Tensor,
    ) -> torch.Tensor:
        """x (tokens, in), base: weight (out, in) and bias (out,); of each part begin, end and
        scaling, and among `matrices` its A (rank, in) and B (out, rank)."""
        weight, bias = dequantize(base[0]), base[1]
        y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        inners = []
        for number, (begin, end, scaling) in enumerate(parts):
            a, b = matrices[2 * number : 2 * number + 2]
            inners.append(x[begin:end] @ a.T)
            y[begin:end].addmm_(inners[-1], b.T, alpha=scaling)
        ctx.save_for_backward(x, *inners, *matrices)
        ctx.weight, ctx.parts = base[0], parts
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x and of every A and B; the base is frozen."""
        x, *saved = ctx.saved_tensors
        inners, matrices = saved[: len(ctx.parts)], saved[len(ctx.parts) :]
        grad_x = grad @ dequantize(ctx.weight) if ctx.needs_input_grad[0] else None
        found = []
        for number, (begin, end, scaling) in enumerate(ctx.parts):
            a, b = matrices[2 * number : 2 * number + 2]
            own = grad[begin:end]
            back = (own @ b).mul_(scaling)
            if grad_x is not None:
                grad_x[begin:end].addmm_(back, a)
            found += [back.T @ x[begin:end], (own.T @ inners[number]).mul_(scaling)]
        return grad_x, None, None, *found


def install_joint_layers(model: torch.nn.Module) -> AdapterSegments:
    """Let every adapted layer of a PEFT model multiply by parts. Raises BadRecipe for layers that
    burnish doesn't know."""
    parts = AdapterSegments()
    for name, layer in model.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        if not is_plain_lora(layer):
            raise BadRecipe(
                f"The layer {name} is none that several adapters can be trained on together.",
                "Train them one after another, or name linear layers in train.method.targets.",
            )
        layer.forward = MethodType(_forward_by_segment(parts), layer)
    return parts


def _forward_by_segment(parts: AdapterSegments) -> Any:
    def forward(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        flat = x.flatten(0, -2)
        # An adapter may leave this layer alone.
        own = [part for part in parts.bounds(len(flat)) if part[0] in self.lora_A]
        weights = [side[name].weight for name, _, _ in own for side in (self.lora_A, self.lora_B)]
        y: torch.Tensor = JointLoraProduct.apply(
            flat,
            (self.base_layer.weight, self.base_layer.bias),
            [(begin, end, self.scaling[name]) for name, begin, end in own],
            *weights,
        )
        return y.view(*x.shape[:-1], -1)

    return forward


@dataclass(frozen=True, slots=True)
class _PrecomputedModel:
    """A language model whose body has read a batch already."""

    hidden: torch.Tensor
    model: PreTrainedModel

    @property
    def base_model(self) -> Any:
        """The body, which gives what it has read."""
        return self

    def __call__(self, **_: Any) -> Any:
        return self

    @property
    def last_hidden_state(self) -> torch.Tensor:
        """(1, tokens, width)."""
        return self.hidden[None]

    @property
    def forward_path(self) -> ForwardPath:
        """The path of the model."""
        return forward_path(self.model)

    def get_output_embeddings(self) -> Any:
        """The head."""
        return self.model.get_output_embeddings()


def forward_jointly(
    model: PreTrainedModel, parts: AdapterSegments, batches: Sequence[tuple[str, PackedBatch]]
) -> list[Any]:
    """One pass over the batches of several adapters, by name. Returns for each a model that has
    read it, as an objective's judge takes it."""
    own = [batch for _, batch in batches]
    parts.names = [name for name, _ in batches]
    parts.lengths = [batch.tokens for batch in own]
    body: Any = model.base_model
    hidden = body(
        input_ids=torch.cat([batch.ids for batch in own], 1),
        position_ids=torch.cat([batch.positions for batch in own], 1),
        use_cache=False,
        layout=tuple(batch.layout for batch in own),
    ).last_hidden_state[0]
    return [_PrecomputedModel(part, model) for part in hidden.split(list(parts.lengths))]
