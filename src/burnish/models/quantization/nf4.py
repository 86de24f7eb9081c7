"""Frozen 4-bit weights (NF4) for QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

`bitsandbytes` quantizes and dequantizes. An adapter trained on quantized weights is served on them
too, since it learns to compensate their error.
"""

from collections.abc import Iterator
from typing import Any

import torch

from burnish.core.errors import Unavailable
from burnish.core.progress import progress


def quantize(model: torch.nn.Module, double_quant: bool) -> None:
    """Hold the linear layers' weights as NF4, all but the head's. Raises Unavailable."""
    nn = import_bitsandbytes().nn
    for parent, name, layer in _quantizable_layers(model):
        packed = nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=layer.weight.dtype,
            compress_statistics=double_quant,
            quant_type="nf4",
            device="meta",
        )
        packed.weight = nn.Params4bit(
            layer.weight.data,
            requires_grad=False,
            compress_statistics=double_quant,
            quant_type="nf4",
        )
        packed.bias = layer.bias
        setattr(parent, name, packed.to(layer.weight.device))
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # PEFT asks for it


@torch.no_grad()
def round_trip(model: torch.nn.Module, double_quant: bool) -> None:
    """Set every weight that `quantize` would quantize to its dequantized value."""
    functional = import_bitsandbytes().functional
    for _, _, layer in _quantizable_layers(model):
        packed, state = functional.quantize_4bit(
            layer.weight.data, compress_statistics=double_quant, quant_type="nf4"
        )
        layer.weight.copy_(functional.dequantize_4bit(packed, state))


def dequantize(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as (out, in) numbers, quantized or not."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    values: torch.Tensor = import_bitsandbytes().functional.dequantize_4bit(weight.data, state)
    return values


def _quantizable_layers(
    model: torch.nn.Module,
) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    head = getattr(model, "lm_head", None)
    layers = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    ]
    with progress("Quantizing to 4 bits", total=len(layers)) as bar:
        for item in layers:
            bar.advance()
            yield item


def import_bitsandbytes(what: str = "4-bit weights need") -> Any:
    """Return the library that `what` needs. Raises Unavailable if it isn't installed."""
    try:
        import bitsandbytes as library
    except ImportError as error:
        raise Unavailable(f"{what} bitsandbytes.", "pip install 'burnish[qlora]'") from error
    return library
