"""llama.cpp's Q4_0 in torch: round weights to values that a 4-bit file can hold.

A block is 32 consecutive weights of a row; its scale is the weight of largest magnitude, with its
sign, divided by -8 and kept in 16 bits; each weight is an integer from -8 to 7 times the scale
(ggml/src/ggml-quants.c, `quantize_row_q4_0_ref`). Rounding is idempotent. ORT-GenAI's int4 has
blocks of 32 too and nearly the same values.
"""

from collections.abc import Iterator

import torch

_BLOCK = 32


def round_to_q4_0(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight (out, in) rounded to Q4_0, in float32. `in` is a multiple of 32."""
    blocks = weight.float().reshape(-1, _BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, 0, 1 / scale)
    steps = blocks.mul(inverse).add_(8.5).trunc_().clamp_(0, 15).sub_(8)
    return steps.mul_(scale.half().float()).view(weight.shape)


@torch.no_grad()
def round_model_to_q4_0(model: torch.nn.Module) -> None:
    """Round every weight that a Q4_0 export rounds, in place."""
    for layer in rounded_layers(model):
        layer.weight.copy_(round_to_q4_0(layer.weight))


def rounded_layers(model: torch.nn.Module) -> Iterator[torch.nn.Linear]:
    """Yield the layers that a Q4_0 export holds in 4 bits; the head gets 8."""
    head = getattr(model, "lm_head", None)
    for layer in model.modules():
        if (
            isinstance(layer, torch.nn.Linear)
            and layer is not head
            and not _has_partial_blocks(layer)
        ):
            yield layer


def _has_partial_blocks(layer: torch.nn.Linear) -> bool:
    """Return whether its rows aren't full blocks; an export keeps such a matrix in 16 bits."""
    return layer.in_features % _BLOCK != 0
