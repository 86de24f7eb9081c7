"""The table of methods: each marks the trainable weights of a model, and may add some."""

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
from burnish.train.adapters.adapted_model import AdaptedModel
from burnish.train.adapters.pissa import init_pissa, to_lora
from burnish.train.adapters.stacked import adapter_below, combine_with_base_adapter, merge_below


def add_lora(model: PreTrainedModel, method: Lora | Dora) -> AdaptedModel:
    """Freeze the model and add low-rank adapters in its own number format.

    Adapters in another format than the model would cost a copy of every activation; the optimizer
    keeps their exact values in float32 (see `optim.adamw`).
    """
    finalizers: list[Callable[[Any], None]] = []
    below = None
    if isinstance(method, Lora) and method.stack_on:
        below = adapter_below(model, method.stack_on)
        model = merge_below(model, below)
    adapted = add_peft_adapter(model, method, lora_config(method))
    if isinstance(method, Lora) and method.init == "pissa":
        principal = init_pissa(adapted)
        finalizers.append(lambda trained: to_lora(trained, principal))
    if method.init_from:
        _load_initial_adapter(method.init_from, adapted)
    if below:
        finalizers.append(lambda trained: combine_with_base_adapter(trained, below))
    return AdaptedModel(adapted, tuple(finalizers))


def add_peft_adapter(model: Any, method: Lora | Dora, config: LoraConfig) -> Any:
    """Add PEFT's LoRA layers. Raises BadRecipe for targets that the model doesn't have."""
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
    """Return PEFT's configuration of the method.

    `task` is PEFT's name of the model's task; `excluded` modules get no adapter.
    """
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


def add_qlora(model: PreTrainedModel, method: Qlora) -> AdaptedModel:
    """Quantize the model to 4 bits and add LoRA."""
    quantize(model, method.double_quant)
    return add_lora(model, method)  # type: ignore[arg-type]


def add_ia3(model: PreTrainedModel, method: Ia3) -> AdaptedModel:
    """Freeze the model and add factors, in float32: bfloat16 has few numbers close to 1."""
    try:
        return AdaptedModel(get_peft_model(model, IA3Config(task_type="CAUSAL_LM")))
    except ValueError as error:
        raise BadRecipe(
            f"PEFT doesn't know which layers of a {model.config.model_type} model IA3 scales: "
            f"{error}",
            "Set train.method=lora.",
        ) from error


def add_bottleneck(model: PreTrainedModel, method: BottleneckMethod) -> AdaptedModel:
    """Freeze the model and add a bottleneck network behind its layers."""
    add_bottlenecks(model, method.size, method.after)
    return AdaptedModel(model)


def add_virtual_tokens(model: PreTrainedModel, method: PromptTuning | PrefixTuning) -> AdaptedModel:
    """Freeze the model and put virtual tokens before every row (see `soft_prompt_ids`)."""
    add_soft_prompt(model, method.kind, method.num_virtual_tokens)
    return AdaptedModel(model)


def soft_prompt_ids(method: Any) -> tuple[int, ...]:
    """Return the ids of the virtual tokens that a method puts before every row; none for most."""
    prompts = PromptTuning | PrefixTuning
    return virtual_token_ids(method.num_virtual_tokens) if isinstance(method, prompts) else ()


def unfreeze_all(model: PreTrainedModel, method: Full) -> AdaptedModel:
    """Train all weights."""
    model.requires_grad_(True)
    return AdaptedModel(model)


#: `train.method.kind` → the function that marks the trainable weights of a model.
METHODS: dict[str, Callable[[PreTrainedModel, Any], AdaptedModel]] = {
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
    """Return the quantization of the frozen weights, which an adapter is loaded with; or None."""
    if isinstance(method, Qlora):
        return {"kind": "nf4", "double_quant": method.double_quant}
    return None


def language_model(model: Any) -> PreTrainedModel:
    """Return the language model inside a PEFT wrapper, or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner


def trainable_weights(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the trainable weights by name, in a fixed order."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _load_initial_adapter(name: str, adapted: Any) -> None:
    """Load the adapter of an earlier run. Raises BadRecipe if its shape or its base differs."""
    artifact = open_artifact(find_run(name).artifact)
    if artifact.kind != "adapter" or find_base(artifact).path != Path(adapted.name_or_path):
        raise BadRecipe(
            f"{name} has no adapter of this base model.",
            "Name a run of train.method=lora on the same model in train.method.init_from.",
        )
    weights = load_file(artifact.path / "adapter_model.safetensors")
    try:
        result: Any = set_peft_model_state_dict(adapted, weights)
    except RuntimeError as error:
        raise BadRecipe(
            f"The adapter of {name} has another shape than this recipe's.",
            "Give train.method the same kind, rank and targets as that run's recipe.yaml.",
        ) from error
    if result.unexpected_keys:
        raise BadRecipe(
            f"The adapter of {name} has layers that this recipe's doesn't have.",
            "Give train.method the same kind and targets as that run's recipe.yaml.",
        )
