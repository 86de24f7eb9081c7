"""Bottleneck adapters: small networks behind a layer's attention and MLP, on frozen weights.

    x + up(gelu(down(x)))     after the output projection, before the sum with the residual

After both as Houlsby et al. 2019 (arXiv:1902.00751), or after the MLP only as Pfeiffer et al. 2021
(arXiv:2005.00247). `up` is initialized to zeros, so training starts from the base's outputs. They
are forward hooks on the projections: the base's weights keep their names and values.

    artifact/bottleneck.json, bottleneck.safetensors
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu

from burnish.core.atomic import write_json
from burnish.core.errors import BadRecipe

BottleneckPosition = Literal["both", "mlp"]

_FACTS, _WEIGHTS = "bottleneck.json", "bottleneck.safetensors"

#: Names of the last projection of attention and MLP, by model family.
_ATTENTION = ("self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "attn.c_proj")
_MLP = ("mlp.down_proj", "mlp.fc2", "mlp.dense_4h_to_h", "mlp.c_proj")
_PROJECTIONS: dict[BottleneckPosition, tuple[tuple[str, ...], ...]] = {
    "both": (_ATTENTION, _MLP),
    "mlp": (_MLP,),
}


class BottleneckLayer(torch.nn.Module):
    """One adapter: (..., width) → the same shape."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down = torch.nn.Linear(width, size)
        self.up = torch.nn.Linear(size, width)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x plus the adapter's output."""
        y: torch.Tensor = x + self.up(gelu(self.down(x)))
        return y


def add_bottlenecks(model: Any, size: int, after: BottleneckPosition) -> None:
    """Freeze the model and add adapters of width `size`, in the model's dtype.

    Raises BadRecipe for a model whose projections aren't known.
    """
    model.requires_grad_(False)
    width, layers = int(model.config.hidden_size), int(model.config.num_hidden_layers)
    for names in _PROJECTIONS[after]:
        projections = [
            projection for name, projection in model.named_modules() if name.endswith(names)
        ]
        if len(projections) != layers:
            raise BadRecipe(
                f"Bottleneck adapters don't support {model.config.model_type} models.",
                "Set train.method=lora.",
            )
        for projection in projections:
            adapter = BottleneckLayer(width, size).to(
                projection.weight.device, projection.weight.dtype
            )
            projection.bottleneck = adapter
            projection.register_forward_hook(_apply_bottleneck)
    model.bottlenecks = {"size": size, "after": after}


def has_bottlenecks(model: Any) -> bool:
    """Return whether the model has bottleneck adapters."""
    return hasattr(model, "bottlenecks")


def save_bottlenecks(model: Any, folder: Path, base: str) -> None:
    """Write size, position and weights of a model's adapters."""
    write_json(folder / _FACTS, {**model.bottlenecks, "base": base})
    save_file(
        {
            name: weight.detach().cpu().contiguous()
            for name, weight in _bottleneck_weights(model).items()
        },
        folder / _WEIGHTS,
    )


@torch.no_grad()
def load_bottlenecks(model: Any, folder: Path) -> None:
    """Load the adapters of a folder onto their base."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    add_bottlenecks(model, facts["size"], facts["after"])
    saved = load_file(folder / _WEIGHTS)
    for name, weight in _bottleneck_weights(model).items():
        weight.copy_(saved[name])


def _bottleneck_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: part for name, part in model.named_parameters() if ".bottleneck." in name}


def _apply_bottleneck(layer: Any, inputs: Any, y: torch.Tensor) -> torch.Tensor:
    adapted: torch.Tensor = layer.bottleneck(y)
    return adapted
