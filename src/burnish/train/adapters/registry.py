"""Which weights move: the table of methods."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel

from burnish.core.errors import BadRecipe
from burnish.core.recipe.methods import (
    BottleneckMethod,
    Dora,
    Full,
    Ia3,
    Lora,
    PrefixTuning,
    PromptTuning,
    Qlora,
)
from burnish.core.runs import find_run
from burnish.models.adapters.bottleneck import add_bottlenecks
from burnish.models.adapters.soft_prompts import add_soft_prompt, virtual_token_ids
from burnish.models.artifact import find_base, open_artifact
from burnish.models.quantization.nf4 import quantize
from burnish.train.adapters.pissa import init_pissa, to_lora
from burnish.train.adapters.stacked import adapter_below, combine_with_base_adapter, merge_below


def add_lora(model: PreTrainedModel, method: Lora | Dora) -> Any:
    """Freeze the model and add low-rank adapters in its own number format.

    Adapters in another format than the model would cost a copy of every activation; the optimizer
    keeps their exact values in float32 (see train.optimizer).
    """
    below = (
        adapter_below(model, method.stack_on)
        if isinstance(method, Lora) and method.stack_on
        else None
    )
    if below:
        model = merge_below(model, below)
    adapted = add_peft_adapter(model, method, lora_config(method))
    if isinstance(method, Lora) and method.init == "pissa":
        init_pissa(adapted)
    if method.init_from:
        _load_initial_adapter(method.init_from, adapted)
    adapted.below = below
    return adapted


def add_peft_adapter(model: Any, method: Lora | Dora, config: LoraConfig) -> Any:
    """The model with new adapters, as PEFT makes them. Raises BadRecipe for layers it lacks."""
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise BadRecipe(
            f"No layer is called {', '.join(method.targets)}: {error}",
            "Set train.method.targets to layers that the model has, or to all-linear.",
        ) from error


def lora_config(
    method: Lora | Dora, task: str = "CAUSAL_LM", excluded: list[str] | None = None
) -> LoraConfig:
    """The method as PEFT calls it; `task` is its name of what the model is for, `spared` are
    modules that get no adapter."""
    targets: Any = "all-linear" if method.targets == ("all-linear",) else list(method.targets)
    return LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=targets,
        rank_pattern=dict(method.rank_pattern),
        use_rslora=method.rslora,
        use_dora=method.kind == "dora",
        task_type=task,
        exclude_modules=excluded,
    )


def add_qlora(model: PreTrainedModel, method: Qlora) -> Any:
    """LoRA on weights of 4 bits."""
    quantize(model, method.double_quant)
    return add_lora(model, method)  # type: ignore[arg-type]


def add_ia3(model: PreTrainedModel, method: Ia3) -> Any:
    """Freeze the model and add factors, in float32: bfloat16 has few numbers close to 1."""
    try:
        return get_peft_model(model, IA3Config(task_type="CAUSAL_LM"))
    except ValueError as error:
        raise BadRecipe(
            f"PEFT doesn't know where a {model.config.model_type} model takes IA3: {error}",
            "Set train.method=lora.",
        ) from error


def add_bottleneck(model: PreTrainedModel, method: BottleneckMethod) -> Any:
    """Freeze the model and hang small networks behind its layers."""
    add_bottlenecks(model, method.size, method.after)
    return model


def add_virtual_tokens(model: PreTrainedModel, method: PromptTuning | PrefixTuning) -> Any:
    """Freeze the model and put learnt tokens before every row (see `tokens_before`)."""
    add_soft_prompt(model, method.kind, method.num_virtual_tokens)
    return model


def soft_prompt_ids(method: Any) -> tuple[int, ...]:
    """The ids of the virtual tokens that a method puts before every row; none for most."""
    prompts = PromptTuning | PrefixTuning
    return virtual_token_ids(method.num_virtual_tokens) if isinstance(method, prompts) else ()


def finalize_adapter(model: Any) -> None:
    """Bring a trained model into the form in which it is kept and served."""
    if hasattr(model, "principal"):
        to_lora(model)
    if getattr(model, "below", None):
        combine_with_base_adapter(model, model.below)


def unfreeze_all(model: PreTrainedModel, method: Full) -> Any:
    """All weights move."""
    model.requires_grad_(True)
    return model


#: `train.method.kind` → the model with its trainable weights marked.
METHODS: dict[str, Callable[[PreTrainedModel, Any], Any]] = {
    "lora": add_lora,
    "dora": add_lora,
    "qlora": add_qlora,
    "ia3": add_ia3,
    "bottleneck": add_bottleneck,
    "prompt": add_virtual_tokens,
    "prefix": add_virtual_tokens,
    "full": unfreeze_all,
}


def quantization(method: Any) -> dict[str, Any] | None:
    """How a method holds the frozen weights, for whoever loads its adapter; None if as they are."""
    if isinstance(method, Qlora):
        return {"kind": "nf4", "double_quant": method.double_quant}
    return None


def language_model(model: Any) -> PreTrainedModel:
    """The language model inside a PEFT wrapper, or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner


def trainable_weights(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The weights that move, by name, in a fixed order."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _load_initial_adapter(name: str, adapted: Any) -> None:
    """Begin with the adapter of an earlier run. Raises BadRecipe if its shape or base differs."""
    artifact = open_artifact(find_run(name).artifact)
    if artifact.kind != "adapter" or find_base(artifact).path != Path(adapted.name_or_path):
        raise BadRecipe(
            f"{name} holds no adapter of this base model.",
            "Name a run of train.method=lora on the same model in train.method.init_from.",
        )
    weights = load_file(artifact.path / "adapter_model.safetensors")
    try:
        done: Any = set_peft_model_state_dict(adapted, weights)
    except RuntimeError as error:
        raise BadRecipe(
            f"The adapter of {name} has another shape than this recipe's.",
            "Give train.method the same kind, rank and targets as that run's recipe.yaml.",
        ) from error
    if done.unexpected_keys:
        raise BadRecipe(
            f"The adapter of {name} has layers that this recipe's has not.",
            "Give train.method the same kind and targets as that run's recipe.yaml.",
        )
