"""Depth pruning: find a model's layers, select some, and keep only those."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from burnish.core.errors import BadRecipe


def evenly_spaced(count: int, total: int) -> list[int]:
    """Return `count` of `total` layer indices, evenly spaced, first and last included; a single one
    is the last."""
    if count == 1:
        return [total - 1]
    return [round(index * (total - 1) / (count - 1)) for index in range(count)]


def find_layer_list(model: Any) -> tuple[torch.nn.Module, str]:
    """Return the module that holds the list of layers, and the list's name."""
    total = model.config.get_text_config().num_hidden_layers
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == total:
                return owner, name
    raise BadRecipe(
        f"The layers of a {model.config.model_type} model can't be found.",
        "Use another model, or leave its layers alone (distill.layers, export.drop_layers, "
        "train.objective.hidden, train.objective.attention).",
    )


def layers_of(model: Any) -> torch.nn.ModuleList:
    """Return the layers of a model, in order. Raises BadRecipe if they can't be found."""
    owner, name = find_layer_list(model)
    layers: torch.nn.ModuleList = getattr(owner, name)
    return layers


def keep_layers(model: Any, kept: Sequence[int]) -> None:
    """Keep only these layers (from 0), in place; saving and loading gives a regular model.

    Raises BadRecipe if the layers can't be found.
    """
    owner, name = find_layer_list(model)
    layers = getattr(owner, name)
    setattr(owner, name, torch.nn.ModuleList(layers[index] for index in kept))
    config = model.config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in kept]


def hidden_states_of(output: Any) -> torch.Tensor:
    """Return the hidden states of a layer's output, which may be a tuple."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


@contextmanager
def capture_outputs(
    modules: Sequence[torch.nn.Module], kept: Callable[[Any], torch.Tensor] = lambda output: output
) -> Iterator[list[torch.Tensor]]:
    """Yield a list that collects each module's output during a pass, transformed by `kept`."""
    outputs: list[Any] = [None] * len(modules)

    def hook(number: int) -> Any:
        def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            outputs[number] = kept(output)

        return modules[number].register_forward_hook(keep)

    handles = [hook(number) for number in range(len(modules))]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
