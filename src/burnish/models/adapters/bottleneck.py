"""Bottleneck adapters: small networks behind a layer's attention and MLP, on frozen weights.

    x + up(gelu(down(x)))     after the output projection, before the sum with the residual

After both as Houlsby et al. 2019 (arXiv:1902.00751), or after the MLP only as Pfeiffer et al. 2021
(arXiv:2005.00247). `up` begins as zeros, so that the model begins as the base. They hang on the
projections as hooks: the base's weights keep their names and values.

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

#: How model families call the last projection of attention and MLP.
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
        """x plus what the adapter makes of it."""
        y: torch.Tensor = x + self.up(gelu(self.down(x)))
        return y


def add_bottlenecks(model: Any, size: int, after: BottleneckPosition) -> None:
    """Freeze the model and hang adapters of `size` on it, in its own number format.

    Raises BadRecipe for a model whose projections aren't known.
    """
    model.requires_grad_(False)
    width, layers = int(model.config.hidden_size), int(model.config.num_hidden_layers)
    for names in _PROJECTIONS[after]:
        found = [part for name, part in model.named_modules() if name.endswith(names)]
        if len(found) != layers:
            raise BadRecipe(
                f"burnish doesn't know where a {model.config.model_type} model takes bottlenecks.",
                "Set train.method=lora.",
            )
        for part in found:
            small = BottleneckLayer(width, size).to(part.weight.device, part.weight.dtype)
            part.bottleneck = small
            part.register_forward_hook(_apply_bottleneck)
    model.bottlenecks = {"size": size, "after": after}


def has_bottlenecks(model: Any) -> bool:
    """Whether `add_bottlenecks` was here."""
    return hasattr(model, "bottlenecks")


def save_bottlenecks(model: Any, folder: Path, base: str) -> None:
    """Write size, places and weights of a model's adapters."""
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
    """Hang the adapters of a folder on their base."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    add_bottlenecks(model, facts["size"], facts["after"])
    saved = load_file(folder / _WEIGHTS)
    for name, weight in _bottleneck_weights(model).items():
        weight.copy_(saved[name])


def _bottleneck_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: part for name, part in model.named_parameters() if ".bottleneck." in name}


def _apply_bottleneck(layer: Any, given: Any, y: torch.Tensor) -> torch.Tensor:
    through: torch.Tensor = layer.bottleneck(y)
    return through
