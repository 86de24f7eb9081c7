"""llama.cpp's Q4_0 in torch: weights on the grid that a file of 4 bits can hold.

A block is 32 neighbours in a row; its scale is the largest of them, with its sign, divided by -8
and kept in 16 bits; each weight is a whole number from -8 to 7 times the scale
(ggml/src/ggml-quants.c, `quantize_row_q4_0_ref`). What lies on the grid stays when it is rounded
again. ORT-GenAI's int4 has blocks of 32 too and nearly this grid.
"""

from collections.abc import Iterator

import torch

_BLOCK = 32


def round_to_q4_0(weight: torch.Tensor) -> torch.Tensor:
    """The weight (out, in) as Q4_0 gives it back, in float32. `in` is a multiple of 32."""
    blocks = weight.float().reshape(-1, _BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, 0, 1 / scale)
    steps = blocks.mul(inverse).add_(8.5).trunc_().clamp_(0, 15).sub_(8)
    return steps.mul_(scale.half().float()).view(weight.shape)


@torch.no_grad()
def round_model_to_q4_0(model: torch.nn.Module) -> None:
    """Round every weight that an export as Q4_0 rounds, in place."""
    for layer in rounded_layers(model):
        layer.weight.copy_(round_to_q4_0(layer.weight))


def rounded_layers(model: torch.nn.Module) -> Iterator[torch.nn.Linear]:
    """The layers that an export as Q4_0 holds in 4 bits; the head gets 8."""
    head = getattr(model, "lm_head", None)
    for layer in model.modules():
        if (
            isinstance(layer, torch.nn.Linear)
            and layer is not head
            and not _has_partial_blocks(layer)
        ):
            yield layer


def _has_partial_blocks(layer: torch.nn.Linear) -> bool:
    """Whether blocks don't fill its rows; an export keeps such a matrix in 16 bits."""
    return layer.in_features % _BLOCK != 0
