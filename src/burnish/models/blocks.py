"""Where a model has its layers, and which of them stand for all."""

from typing import Any

import torch

from burnish.core.errors import BadRecipe


def evenly(count: int, total: int) -> list[int]:
    """`count` of `total` layers, evenly apart, with the first and the last one; of one the last."""
    if count == 1:
        return [total - 1]
    return [round(place * (total - 1) / (count - 1)) for place in range(count)]


def layers_of(model: Any) -> tuple[torch.nn.Module, str]:
    """The module that holds the list of layers, and the list's name. Raises BadRecipe."""
    total = model.config.get_text_config().num_hidden_layers
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == total:
                return owner, name
    raise BadRecipe(
        f"burnish doesn't know where a {model.config.model_type} model has its layers.",
        "Leave distil.layers and train.objective.hidden empty.",
    )
