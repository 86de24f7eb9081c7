"""Soft prompts: trained virtual tokens before every prompt, on frozen weights.

`prompt`: their embeddings are trained (Lester et al. 2021, arXiv:2104.08691). `prefix`: their keys
and values in every layer are (Li & Liang 2021, arXiv:2101.00190, without the reparametrization).
A virtual token is a token with a negative id: it is shared by a batch, cached and continued like
any other prefix. Both are initialized from the base's states of random words of the vocabulary.

    artifact/virtual.json, virtual.safetensors                count, and the trained tensors
    artifact/adapter_config.json, adapter_model.safetensors   the same as PEFT loads it
"""

import json
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from peft import PrefixTuningConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch.nn.functional import embedding
from transformers import DynamicCache

from burnish.core.atomic import write_json
from burnish.core.errors import BadRecipe

SoftPromptKind = Literal["prompt", "prefix"]
_FACTS, _WEIGHTS = "virtual.json", "virtual.safetensors"
_KEYS_AND_VALUES = ("self_attn.k_proj", "self_attn.v_proj")
_PEFT: dict[SoftPromptKind, Any] = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}


def virtual_token_ids(count: int) -> tuple[int, ...]:
    """Return the ids of `count` virtual tokens, in order."""
    return tuple(range(-count, 0))


def required_virtual_ids(model: Any) -> tuple[int, ...]:
    """Return the virtual tokens that precede every prompt of a model; none for most models."""
    return virtual_token_ids(model.virtual["tokens"]) if has_soft_prompt(model) else ()


def add_soft_prompt(model: Any, kind: SoftPromptKind, count: int) -> None:
    """Freeze the model and add `count` virtual tokens.

    Raises BadRecipe for a model whose keys and values aren't known (`prefix` only).
    """
    model.requires_grad_(False)
    words = model.get_input_embeddings()
    drawn = torch.randint(words.weight.shape[0], (count,), device=words.weight.device)
    owners = [words] if kind == "prompt" else _projections(model)
    begins = [words(drawn)] if kind == "prompt" else _layer_outputs(model, owners, drawn)
    for owner, begin in zip(owners, begins, strict=True):
        owner.virtual = torch.nn.Parameter(begin.detach().clone())
    words.forward = MethodType(_clamp_virtual_ids, words)
    model.virtual = {"kind": kind, "tokens": count}
    if kind == "prefix":
        for owner in owners:
            # Each pass leaves its ids with the embedding; the layers look for them there.
            owner.register_forward_hook(
                lambda layer, _, y: _insert_virtual(y, words.ids, layer.virtual)
            )


def has_soft_prompt(model: Any) -> bool:
    """Return whether the model has virtual tokens."""
    return hasattr(model, "virtual")


def save_soft_prompt(model: Any, folder: Path, base: str) -> None:
    """Write the trained tensors by name, and the same in PEFT's format."""
    write_json(folder / _FACTS, {**model.virtual, "base": base})
    trained = {
        name: part.detach().cpu().contiguous() for name, part in _soft_prompt_weights(model).items()
    }
    save_file(trained, folder / _WEIGHTS)
    config = model.config
    count, heads = model.virtual["tokens"], config.num_attention_heads
    learns_prompt = model.virtual["kind"] == "prompt"
    shared = heads if learns_prompt else config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    _PEFT[model.virtual["kind"]](
        task_type="CAUSAL_LM",
        num_virtual_tokens=count,
        token_dim=config.hidden_size if learns_prompt else shared * dim,
        num_transformer_submodules=1,
        num_attention_heads=shared,
        num_layers=config.num_hidden_layers,
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(folder)
    table = next(iter(trained.values())) if learns_prompt else _compute_prefix_cache(model, count)
    save_file({"prompt_embeddings": table}, folder / "adapter_model.safetensors")


@torch.no_grad()
def load_soft_prompt(model: Any, folder: Path) -> None:
    """Load the virtual tokens of a folder into their base."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    with torch.random.fork_rng():
        add_soft_prompt(model, facts["kind"], facts["tokens"])
    saved = load_file(folder / _WEIGHTS)
    for name, weight in _soft_prompt_weights(model).items():
        weight.copy_(saved[name])


def _clamp_virtual_ids(words: Any, ids: torch.Tensor) -> torch.Tensor:
    words.ids = ids
    real: torch.Tensor = type(words).forward(words, ids.clamp(min=0))
    return _insert_virtual(real, ids, words.virtual) if hasattr(words, "virtual") else real


def _insert_virtual(y: torch.Tensor, ids: torch.Tensor, virtual: torch.Tensor) -> torch.Tensor:
    """Return y (rows, tokens, width) with the trained vectors at virtual tokens."""
    numbers = (ids + len(virtual)).clamp(0, len(virtual) - 1)
    return torch.where(ids[..., None] < 0, embedding(numbers, virtual), y)


def _projections(model: Any) -> list[Any]:
    projections = [part for name, part in model.named_modules() if name.endswith(_KEYS_AND_VALUES)]
    if len(projections) != 2 * model.config.num_hidden_layers:
        raise BadRecipe(
            f"Prefix tuning doesn't support {model.config.model_type} models.",
            "Set train.method=prompt, or lora.",
        )
    return projections


@torch.no_grad()
def _layer_outputs(model: Any, layers: list[Any], ids: torch.Tensor) -> list[torch.Tensor]:
    """Return each layer's output for these tokens: (tokens, width) each."""
    outputs: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _, y: outputs.update({id(layer): y[0]}))
        for layer in layers
    ]
    model(input_ids=ids[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return [outputs[id(layer)] for layer in layers]


@torch.no_grad()
def _compute_prefix_cache(model: Any, count: int) -> torch.Tensor:
    """Return (tokens, layers x 2 x width): keys, rotated to their positions, and values, as PEFT
    stores them.

    The attention implementation is restored afterwards: in training it takes packed sequences only.
    """
    cache: Any = DynamicCache()
    before = model.config._attn_implementation
    ids = torch.tensor([virtual_token_ids(count)], device=model.device)
    model.set_attn_implementation("sdpa")
    model.eval()(input_ids=ids, past_key_values=cache, use_cache=True)
    model.set_attn_implementation(before)
    sides = [side for layer in cache.layers for side in (layer.keys, layer.values)]
    flat = [side[0].transpose(0, 1).flatten(1) for side in sides]
    return torch.cat(flat, 1).cpu().contiguous()


def _soft_prompt_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: part for name, part in model.named_parameters() if name.endswith(".virtual")}
