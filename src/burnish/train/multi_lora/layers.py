"""Multi-LoRA layers: a frozen layer multiplies the rows of all adapters at once, and each adapter's
matrices multiply its own rows.

mLoRA trains so (Ye et al. 2023, arXiv:2312.02515), and Punica serves so (Chen et al. 2023,
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
    """Which adapter the tokens of a pass belong to: names, and the number of tokens of each, in
    order.

    Every adapted layer reads it; it is set before each pass.
    """

    names: Sequence[str] = ()
    lengths: Sequence[int] = field(default=())

    def use_only(self, name: str) -> None:
        """Assign all tokens of the following passes to one adapter."""
        self.names, self.lengths = (name,), ()

    def bounds(self, tokens: int) -> list[tuple[str, int, int]]:
        """Return the name, begin and end of each segment of a pass of `tokens` tokens."""
        bounds, begin = [], 0
        for name, length in zip(self.names, self.lengths or (tokens,), strict=True):
            bounds.append((name, begin, begin + length))
            begin += length
        return bounds


class JointLoraProduct(torch.autograd.Function):
    """`x W'`, plus `s (x A') B'` on each segment with its own A, B and s (see `LoraProduct`)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        base: tuple[torch.Tensor, torch.Tensor | None],
        segments: Sequence[tuple[int, int, float]],
        *matrices: torch.Tensor,
    ) -> torch.Tensor:
        """x (tokens, in), base: weight (out, in) and bias (out,); of each segment begin, end and
        scaling, and in `matrices` its A (rank, in) and B (out, rank)."""
        weight, bias = dequantize(base[0]), base[1]
        y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        inners = []
        for number, (begin, end, scaling) in enumerate(segments):
            a, b = matrices[2 * number : 2 * number + 2]
            inners.append(x[begin:end] @ a.T)
            y[begin:end].addmm_(inners[-1], b.T, alpha=scaling)
        ctx.save_for_backward(x, *inners, *matrices)
        ctx.weight, ctx.segments = base[0], segments
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x and of every A and B; the base is frozen."""
        x, *saved = ctx.saved_tensors
        inners, matrices = saved[: len(ctx.segments)], saved[len(ctx.segments) :]
        grad_x = grad @ dequantize(ctx.weight) if ctx.needs_input_grad[0] else None
        matrix_grads = []
        for number, (begin, end, scaling) in enumerate(ctx.segments):
            a, b = matrices[2 * number : 2 * number + 2]
            segment = grad[begin:end]
            inner_grad = (segment @ b).mul_(scaling)
            if grad_x is not None:
                grad_x[begin:end].addmm_(inner_grad, a)
            matrix_grads += [
                inner_grad.T @ x[begin:end],
                (segment.T @ inners[number]).mul_(scaling),
            ]
        return grad_x, None, None, *matrix_grads


def install_joint_layers(model: torch.nn.Module) -> AdapterSegments:
    """Make every adapted layer of a PEFT model multiply by segments. Raises BadRecipe for layers
    that can't."""
    segments = AdapterSegments()
    for name, layer in model.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        if not is_plain_lora(layer):
            raise BadRecipe(
                f"Several adapters can't be trained together on the layer {name}.",
                "Train them one after another, or name linear layers in train.method.targets.",
            )
        layer.forward = MethodType(_forward_by_segment(segments), layer)
    return segments


def _forward_by_segment(segments: AdapterSegments) -> Any:
    def forward(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        flat = x.flatten(0, -2)
        # An adapter may not have this layer.
        bounds = [bound for bound in segments.bounds(len(flat)) if bound[0] in self.lora_A]
        weights = [
            side[name].weight for name, _, _ in bounds for side in (self.lora_A, self.lora_B)
        ]
        y: torch.Tensor = JointLoraProduct.apply(
            flat,
            (self.base_layer.weight, self.base_layer.bias),
            [(begin, end, self.scaling[name]) for name, begin, end in bounds],
            *weights,
        )
        return y.view(*x.shape[:-1], -1)

    return forward


@dataclass(frozen=True, slots=True)
class _PrecomputedModel:
    """A language model with the hidden states of a batch that its body has read already."""

    hidden: torch.Tensor
    model: PreTrainedModel

    @property
    def base_model(self) -> Any:
        """The body, which returns the hidden states."""
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
    model: PreTrainedModel, segments: AdapterSegments, batches: Sequence[tuple[str, PackedBatch]]
) -> list[Any]:
    """Do one pass over the batches of several adapters, by name. Returns for each a model that an
    objective's loss function takes, with its hidden states."""
    packed = [batch for _, batch in batches]
    segments.names = [name for name, _ in batches]
    segments.lengths = [batch.tokens for batch in packed]
    body: Any = model.base_model
    hidden = body(
        input_ids=torch.cat([batch.ids for batch in packed], 1),
        position_ids=torch.cat([batch.positions for batch in packed], 1),
        use_cache=False,
        layout=tuple(batch.layout for batch in packed),
    ).last_hidden_state[0]
    return [_PrecomputedModel(states, model) for states in hidden.split(list(segments.lengths))]
