"""A model as a proof compares with it: attention by name, short windows, few layers, float32.

A model's own forward pass with eager attention is the reference: `transformers` writes down there
what a family computes, with its windows, caps, sinks and biases.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.utils import logging

from burnish.core.errors import BadRecipe
from burnish.models.pruning.depth import find_layer_list

#: Tokens that sliding and chunked attention sees during a proof, so that short rows are longer.
_SHORT_WINDOW = 24
_WINDOWS = ("sliding_window", "attention_chunk_size")


def own_attention(model: Any) -> str | None:
    """Return the attention implementation that a model was loaded with."""
    name: str | None = model.config._attn_implementation
    return name


def set_attention(model: Any, name: str | None) -> None:
    """Set the attention implementation of a model; None leaves it. Raises ValueError for a model
    that doesn't have it."""
    if name is not None and model.config._attn_implementation != name:
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            model.set_attn_implementation(name)
        finally:
            logging.set_verbosity(before)


@contextmanager
def short_windows(model: torch.nn.Module) -> Iterator[None]:
    """Within, attention windows have `_SHORT_WINDOW` tokens at most."""
    owners: dict[int, Any] = {id(module): module for module in model.modules()}
    for module in list(owners.values()):
        config = getattr(module, "config", None)
        for one in (config, config and config.get_text_config()):
            if one is not None:
                owners[id(one)] = one
    changed: list[tuple[Any, str, int]] = []
    for owner in owners.values():
        for name in _WINDOWS:
            size = getattr(owner, name, None)
            if isinstance(size, int) and size > _SHORT_WINDOW:
                changed.append((owner, name, size))
                setattr(owner, name, _SHORT_WINDOW)
    try:
        yield
    finally:
        for owner, name, size in changed:
            setattr(owner, name, size)


#: Layers that a shallow model has at most.
_MOST_LAYERS = 8


@contextmanager
def representative_layers(model: Any) -> Iterator[bool]:
    """Within, a model has one layer of each kind, and two at least. Yields False where it stays
    whole: a model that is shallow, has many kinds, or hides its layers."""
    try:
        owner, name = find_layer_list(model)
    except BadRecipe:
        yield False
        return
    layers: torch.nn.ModuleList = getattr(owner, name)
    kinds: dict[object, int] = {}
    for number, layer in enumerate(layers):
        kinds.setdefault(_layer_kind(model.config.get_text_config(), layer, number), number)
    kept = sorted({0, 1, *kinds.values()})
    if len(kept) >= min(len(layers), _MOST_LAYERS + 1):
        yield False
        return
    config, total = model.config.get_text_config(), len(layers)
    before = {
        key: value
        for key, value in vars(config).items()
        if key != name and isinstance(value, list | tuple) and len(value) == total
    }
    try:
        setattr(owner, name, torch.nn.ModuleList(layers[number] for number in kept))
        config.num_hidden_layers = len(kept)
        for key, value in before.items():
            setattr(config, key, [value[number] for number in kept])
        yield True
    finally:
        setattr(owner, name, layers)
        config.num_hidden_layers = total
        for key, value in before.items():
            setattr(config, key, value)


def _layer_kind(config: Any, layer: torch.nn.Module, number: int) -> object:
    """What two layers that compute the same have in common: classes, shapes and settings."""
    parts = [
        (
            name,
            type(part).__name__,
            tuple(
                (key, value)
                for key, value in sorted(vars(part).items())
                if isinstance(value, bool | int | float | str) and key not in _NOT_A_KIND
            ),
            tuple(weight.shape for weight in part.parameters(recurse=False)),
        )
        for name, part in layer.named_modules()
    ]
    types = getattr(config, "layer_types", None) or ()
    return (types[number] if number < len(types) else None, tuple(parts))


#: Attributes of a layer that say where it stands.
_NOT_A_KIND = ("layer_idx", "layer_id", "layer_number", "training")


@contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Within, weights of 16 bits have 32; they are the very same tensors before and after."""
    narrow = [
        (part, part.data)
        for part in (*model.parameters(), *model.buffers())
        if part.dtype in (torch.bfloat16, torch.float16)
    ]
    for part, own in narrow:
        part.data = own.float()
    try:
        yield
    finally:
        for part, own in narrow:
            part.data = own


def keep_quantized_weights(model: torch.nn.Module) -> None:
    """Let layers of 4 bits compute as in training: otherwise bitsandbytes packs their weights anew,
    in place, when they first answer on a CPU."""
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.training = True


def is_quantized(model: torch.nn.Module) -> bool:
    """True if some weights aren't floating-point numbers."""
    return any(not weight.is_floating_point() for weight in model.parameters())
