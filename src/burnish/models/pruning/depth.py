"""Which layers a model has, which of them stand for all, and the same model with some of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from burnish.core.errors import BadRecipe


def evenly_spaced(count: int, total: int) -> list[int]:
    """`count` of `total` layers, evenly apart, with the first and the last one; of one the last."""
    if count == 1:
        return [total - 1]
    return [round(place * (total - 1) / (count - 1)) for place in range(count)]


def layers_of(model: Any) -> torch.nn.ModuleList:
    """The layers of a model, in order. Raises BadRecipe for a model that hides them."""
    owner, name = _find_layer_list(model)
    found: torch.nn.ModuleList = getattr(owner, name)
    return found


def keep_layers(model: Any, kept: Sequence[int]) -> None:
    """Leave the model these layers (from 0), in place; once saved and loaded it is whole again.

    Raises BadRecipe for a model that hides its layers.
    """
    owner, name = _find_layer_list(model)
    layers = getattr(owner, name)
    setattr(owner, name, torch.nn.ModuleList(layers[place] for place in kept))
    config = model.config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[place] for place in kept]


def hidden_states_of(given: Any) -> torch.Tensor:
    """The hidden states that a layer gives, alone or first of several things."""
    states: torch.Tensor = given[0] if isinstance(given, tuple) else given
    return states


@contextmanager
def capture_outputs(
    modules: Sequence[torch.nn.Module], kept: Callable[[Any], torch.Tensor] = lambda given: given
) -> Iterator[list[torch.Tensor]]:
    """What each of the modules gives, as a pass goes on; `kept` makes what is kept of it."""
    found: list[Any] = [None] * len(modules)

    def hook(number: int) -> Any:
        def keep(module: torch.nn.Module, asked: Any, given: Any) -> None:
            found[number] = kept(given)

        return modules[number].register_forward_hook(keep)

    handles = [hook(number) for number in range(len(modules))]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _find_layer_list(model: Any) -> tuple[torch.nn.Module, str]:
    """The module that holds the list of layers, and the list's name."""
    total = model.config.get_text_config().num_hidden_layers
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == total:
                return owner, name
    raise BadRecipe(
        f"burnish doesn't know where a {model.config.model_type} model has its layers.",
        "Take another model, or leave its layers alone (distill.layers, export.drop_layers, "
        "train.objective.hidden, train.objective.attention).",
    )
