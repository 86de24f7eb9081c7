"""Which weights move: the table of methods."""

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from burnish.core.errors import BadRecipe
from burnish.core.sections import Full, Lora


def add_lora(model: PreTrainedModel, method: Lora) -> Any:
    """Freeze the model and add low-rank adapters in its own number format.

    Adapters in another format than the model would cost a copy of every activation; the optimizer
    keeps their exact values in float32 (see train.optimizer).
    """
    targets: Any = "all-linear" if method.targets == ("all-linear",) else list(method.targets)
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise BadRecipe(
            f"No layer is called {', '.join(method.targets)}: {error}",
            "Set train.method.targets to layers that the model has, or to all-linear.",
        ) from error


def train_everything(model: PreTrainedModel, method: Full) -> Any:
    """All weights move."""
    model.requires_grad_(True)
    return model


#: `train.method.kind` → the model with its trainable weights marked.
METHODS: dict[str, Callable[[PreTrainedModel, Any], Any]] = {
    "lora": add_lora,
    "full": train_everything,
}


def language_model(model: Any) -> PreTrainedModel:
    """The language model inside a PEFT wrapper, or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The weights that move, by name, in a fixed order."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
