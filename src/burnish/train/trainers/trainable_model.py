"""The model of a causal language model's training: loaded, adapted, with its layers replaced."""

from collections.abc import Sequence
from typing import Any

import torch

from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.train import Train
from burnish.models.load import default_device, load_model, training_dtype
from burnish.models.local_models import LocalModel
from burnish.train.adapters.adapted_model import AdaptedModel
from burnish.train.adapters.quantization_aware import use_rounded_weights
from burnish.train.adapters.registry import (
    METHODS,
    language_model,
    soft_prompt_ids,
    trainable_weights,
)
from burnish.train.distributed.fsdp import FsdpAdamW, shard
from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.distributed.zero import ZeroAdamW
from burnish.train.forward.proof import choose_forward_path
from burnish.train.kernels.compile import compile_layers
from burnish.train.loop.language_model import Stage
from burnish.train.optim.adamw import MasterAdamW


def load_adapted_model(
    recipe: Recipe, base: LocalModel, device: torch.device | None = None
) -> AdaptedModel:
    """Load the base in the recipe's number format and mark its trainable weights."""
    model = load_model(base, training_dtype(recipe.model.dtype), device or default_device())
    return METHODS[recipe.train.method.kind](model, recipe.train.method)


def load_trainable_model(
    recipe: Recipe, base: LocalModel, stages: Sequence[Stage] = (), longest: int = 0
) -> AdaptedModel:
    """Load the model as it is trained: with the weights of the objective's `stages`, on the
    forward path that is proven for rows of up to `longest` tokens, and what else the recipe asks
    for.

    Raises BadRecipe if no path is right.
    """
    settings = recipe.train
    # Sharded weights go to the devices in parts; no device need hold them all.
    device = torch.device("cpu") if settings.shards_weights else default_device()
    adapted = load_adapted_model(recipe, base, device)
    for stage in stages:
        stage.extend_model(adapted.model, settings)
    language = language_model(adapted.model)
    virtual_tokens = soft_prompt_ids(settings.method)
    choose_forward_path(adapted.model, language, base.name, longest, virtual_tokens)
    if settings.quantization_aware:
        use_rounded_weights(adapted.model)
    if settings.gradient_checkpointing:
        language.activation_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        compile_layers(language)
    return adapted


def make_optimizer(
    model: Any, settings: Train, steps: int, process_group: ProcessGroup
) -> MasterAdamW:
    """Make the optimizer of the trainable weights, which `train.parallel` may shard."""
    if settings.shards_weights:
        shard(language_model(model), process_group)
        return FsdpAdamW(trainable_weights(model), settings, steps, process_group)
    if process_group.size > 1:
        return ZeroAdamW(trainable_weights(model), settings, steps, process_group)
    return MasterAdamW(trainable_weights(model), settings, steps)
