"""Which layers a decoder has, and the same model with some of them only."""

from collections.abc import Sequence
from typing import Any

import torch

from burnish.core.errors import BadRecipe


def layers_of(model: Any) -> torch.nn.ModuleList:
    """The layers of a decoder, in order. Raises BadRecipe for a model that hides them."""
    owner, name = _place_of(model)
    found: torch.nn.ModuleList = getattr(owner, name)
    return found


def keep_layers(model: Any, kept: Sequence[int]) -> None:
    """Leave the decoder these layers (from 0), in place; once saved and loaded it is whole again.

    Raises BadRecipe for a model that hides its layers.
    """
    owner, name = _place_of(model)
    layers = getattr(owner, name)
    setattr(owner, name, torch.nn.ModuleList(layers[place] for place in kept))
    config = model.config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[place] for place in kept]


def _place_of(model: Any) -> tuple[torch.nn.Module, str]:
    """The module that holds the list of layers, and the list's name."""
    total = model.config.num_hidden_layers
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == total:
                return owner, name
    raise BadRecipe(
        f"burnish doesn't know where a {model.config.model_type} model has its layers.",
        "Name a smaller model instead of cutting layers out of this one.",
    )
