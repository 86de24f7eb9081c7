"""From a model folder to weights and tokenizer."""

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

# Progress is ours to show (core.progress); a second bar for half a second's work is noise.
transformers_logging.disable_progress_bar()

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(
    local: LocalModel, dtype: torch.dtype, device: torch.device | None = None
) -> PreTrainedModel:
    """The model in evaluation mode, at `place`, or on the GPU if there is one.

    Raises BadRecipe for a model that doesn't generate text.
    """
    if local.kind == "seq2seq":
        raise BadRecipe(
            f"{local.name} is an encoder-decoder, and this is for language models.",
            "Name a language model, or see what train.objective=seq2seq can do.",
        )
    if local.kind == "vision":
        raise BadRecipe(
            f"{local.name} is a model that sees, and this is for those that read text only.",
            "See docs/guides/vision.md for what it can do here, or name a language model.",
        )
    if local.kind != "causal":
        raise BadRecipe(f"{local.name} is an {local.kind} model; it doesn't write text.")
    model: Any = AutoModelForCausalLM.from_pretrained(
        local.path, dtype=dtype, attn_implementation="sdpa", local_files_only=True
    )
    placed: PreTrainedModel = model.to(device or default_device()).eval()
    return placed


def load_tokenizer(local: LocalModel) -> Tokenizer:
    """The tokenizer; one without a chat template gets the plain one, and that of an encoder-decoder
    another one in any case (see models.chat)."""
    if local.kind == "vision":
        return load_vision_tokenizer(local.path, local.name)
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(local.path, local_files_only=True)
    if local.kind == "seq2seq":
        tokenizer.chat_template = SOURCE_TEMPLATE
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_dtype(name: Literal["auto", "float32", "bfloat16"]) -> torch.dtype:
    """The number format for training: `auto` is bfloat16 where the hardware multiplies it fast."""
    if name != "auto":
        return _DTYPES[name]
    return torch.bfloat16 if _has_fast_bfloat16() else torch.float32


def slow_dtype_warning(name: Literal["auto", "float32", "bfloat16"]) -> str:
    """What a person should know who trains in a format that this machine multiplies slowly."""
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
    """Bytes that a run may still use on the device it will run on."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return min([int(psutil.virtual_memory().available), *_container_free_memory()])


def _container_free_memory(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes that a container's memory limit leaves (cgroup v2 and v1); what is cached is free."""
    rooms = []
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = (root / most).read_text().strip() if (root / most).exists() else "max"
        if limit != "max":
            facts = (root / most).with_name("memory.stat").read_text().split()
            cached = int(facts[facts.index("inactive_file") + 1])
            rooms.append(int(limit) - int((root / used).read_text()) + cached)
    return rooms
