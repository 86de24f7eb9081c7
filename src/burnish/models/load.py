"""Load weights and tokenizer from a model folder."""

from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging as transformers_logging

from burnish.core.errors import BadRecipe
from burnish.models.chat_template import PLAIN_TEMPLATE, SOURCE_TEMPLATE
from burnish.models.image_processor import load_vision_tokenizer
from burnish.models.local_models import LocalModel

# We show progress ourselves (core.progress); a second bar for half a second is noise.
transformers_logging.disable_progress_bar()

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(
    local: LocalModel, dtype: torch.dtype, device: torch.device | None = None
) -> PreTrainedModel:
    """Load the model in evaluation mode, on `device`, or on the GPU if there is one.

    Raises BadRecipe for a model that doesn't generate text.
    """
    if local.kind == "seq2seq":
        raise BadRecipe(
            f"{local.name} is an encoder-decoder; this command needs a language model.",
            "Name a language model, or see what train.objective=seq2seq can do.",
        )
    if local.kind == "vision":
        raise BadRecipe(
            f"{local.name} is a vision-language model; this command supports text-only models.",
            "See docs/guides/vision.md for what is supported, or name a language model.",
        )
    if local.kind != "causal":
        raise BadRecipe(f"{local.name} is an {local.kind} model; it doesn't write text.")
    model: Any = AutoModelForCausalLM.from_pretrained(
        local.path, dtype=dtype, local_files_only=True
    )
    placed: PreTrainedModel = model.to(device or default_device()).eval()
    return placed


def load_tokenizer(local: LocalModel) -> Tokenizer:
    """Load the tokenizer; it gets the plain template if it has none, and an encoder-decoder's
    always gets `SOURCE_TEMPLATE`."""
    if local.kind == "vision":
        return load_vision_tokenizer(local.path, local.name)
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(local.path, local_files_only=True)
    if local.kind == "seq2seq":
        tokenizer.chat_template = SOURCE_TEMPLATE
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


#: Names in a configuration of how many tokens a model reads.
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
#: Tokens for a model whose state doesn't grow with them, or that counts distances only.
_ENDLESS = 1 << 17


def context_length(config: Any) -> int:
    """Return how many tokens a model reads whose positions don't change with a text's length."""
    text = config.get_text_config()
    known = [getattr(text, name, None) for name in _CONTEXTS]
    most = next((int(size) for size in known if size), _ENDLESS)
    return min([most, *lengths_of_ropes(text)])


def lengths_of_ropes(config: Any) -> list[int]:
    """Tokens beyond which rotary positions of all tokens change: dynamic NTK, and LongRoPE (Ding et
    al. 2024, arXiv:2402.13753)."""
    ropes = [getattr(config, "rope_parameters", None) or {}]
    ropes += [part for part in ropes[0].values() if isinstance(part, dict)]
    usual = getattr(config, "original_max_position_embeddings", None)
    return [
        int(rope.get("original_max_position_embeddings") or usual or config.max_position_embeddings)
        for rope in ropes
        if rope.get("rope_type") in ("dynamic", "longrope")
    ]


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_dtype(name: Literal["auto", "float32", "bfloat16"]) -> torch.dtype:
    """Return the dtype for training: `auto` is bfloat16 on hardware that multiplies it fast."""
    if name != "auto":
        return _DTYPES[name]
    return torch.bfloat16 if _has_fast_bfloat16() else torch.float32


def slow_dtype_warning(name: Literal["auto", "float32", "bfloat16"]) -> str:
    """Return a warning for a dtype that this machine multiplies slowly; empty if there is none."""
    if name != "bfloat16" or _has_fast_bfloat16():
        return ""
    return (
        "model.dtype is bfloat16, which this processor has no units for: a step takes many times "
        "as long as in float32. Leave model.dtype out, unless the memory has no room for float32."
    )


def _has_fast_bfloat16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))


def available_memory() -> int:
    """Return the bytes still available on the device that a run will use."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return min([int(psutil.virtual_memory().available), *_container_free_memory()])


def _container_free_memory(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return the bytes that a container's memory limit leaves (cgroup v2 and v1); page cache counts
    as free."""
    free = []
    for limit_file, usage_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = (root / limit_file).read_text().strip() if (root / limit_file).exists() else "max"
        if limit != "max":
            facts = (root / limit_file).with_name("memory.stat").read_text().split()
            cached = int(facts[facts.index("inactive_file") + 1])
            free.append(int(limit) - int((root / usage_file).read_text()) + cached)
    return free
