"""A Llama-family model as one GGUF file: weights, hyperparameters, tokenizer, template.

Written with the `gguf` package from float32 weights. llama.cpp interleaves the halves of a head's
rotary dimensions, so the query and key projections are permuted.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.progress import progress
from burnish.export.formats.gguf_quants import F32, QUANTS, fallback_kind, quantize_matrix
from burnish.export.formats.gguf_tokenizer import CannotExport, add_tokenizer

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
#: Hugging Face name of a layer's tensor → GGUF name.
_TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd",
    "model.norm.weight": "output_norm",
    "lm_head.weight": "output",
}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A written GGUF file: the number of matrices per format, and how many fell back."""

    path: Path
    kinds: dict[str, int]
    fallen_back: int


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    quant: str,
    name: str,
    importance: Mapping[str, np.ndarray] | None = None,
) -> GgufFile:
    """Write a Llama model in float32 as GGUF. `quant` is a key of QUANTS, `importance` comes from
    `formats.importance_matrix`.

    Raises CannotExport for another architecture, or one that GGUF can't express.
    """
    config = model.config
    _check_supported(config)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(QUANTS[quant].file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_hyperparameters(writer, config)
    weights = model.state_dict()
    add_tokenizer(writer, tokenizer, weights["model.embed_tokens.weight"].shape[0])
    kinds: Counter[str] = Counter()
    fallen_back = 0
    if (factors := _rope_factors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    tensors = list(_map_tensors(weights, config))
    with progress(f"Writing {quant}", total=len(tensors)) as bar:
        for target, layer, weight in tensors:
            array = weight.float().numpy()
            wanted = QUANTS[quant].kind(target, layer, config.num_hidden_layers)
            kind = fallback_kind(wanted, array.shape[-1]) if array.ndim == 2 else F32
            gguf_name = f"blk.{layer}.{target}" if layer >= 0 else target
            blocks = quantize_matrix(array, kind, (importance or {}).get(gguf_name))
            writer.add_tensor(f"{gguf_name}.weight", blocks, raw_dtype=kind)
            kinds[kind.name] += array.ndim == 2
            fallen_back += array.ndim == 2 and kind != wanted
            bar.advance()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path, {kind: n for kind, n in kinds.items() if n}, fallen_back)


def _check_supported(config: Any) -> None:
    if config.model_type != "llama" or config.hidden_act != "silu":
        raise CannotExport(
            f"A model of type `{config.model_type}` can't be written as GGUF yet; Llama's can.",
            "Export with --to merged, and convert that folder with llama.cpp's own script.",
        )


def _add_hyperparameters(writer: gguf.GGUFWriter, config: Any) -> None:
    heads, dimension = config.num_attention_heads, _head_width(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(dimension)
    writer.add_value_length(dimension)
    writer.add_rope_dimension_count(dimension)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] not in ("default", "llama3"):
        raise CannotExport(
            f"Rotary positions of type `{rope['rope_type']}` can't be written as GGUF yet.",
            "Export with --to merged instead.",
        )


def _rope_factors(config: Any) -> np.ndarray | None:
    """Return Llama 3's divisor of each rotary frequency (dimension / 2,), as `rope_freqs` holds
    it."""
    rope = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return None
    dimension = _head_width(config)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for index in range(0, dimension, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / dimension)
        rotations = rope["original_max_position_embeddings"] / wavelength
        smooth = min(max((rotations - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def _head_width(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _map_tensors(weights: dict[str, Any], config: Any) -> Iterator[tuple[str, int, torch.Tensor]]:
    """Yield each tensor's GGUF name, its layer (-1 outside the layers), and its values."""
    for name, weight in weights.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        yield (
            (_OUTSIDE[name], -1, weight)
            if name in _OUTSIDE
            else map_layer_tensor(name, weight, config)
        )


def map_layer_tensor(name: str, weight: torch.Tensor, config: Any) -> tuple[str, int, torch.Tensor]:
    """Return the GGUF name, the layer and the values (out, in) of a tensor inside the layers.

    Raises CannotExport for a name that the Llama family doesn't have.
    """
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _TENSORS:
        raise CannotExport(
            f"The tensor `{name}` doesn't belong to GGUF's Llama layout.",
            "Export with --to merged instead.",
        )
    target = _TENSORS[match[2]]
    if target in ("attn_q", "attn_k"):
        heads = config.num_attention_heads
        weight = _interleave_rotary(
            weight, heads if target == "attn_q" else config.num_key_value_heads
        )
    return target, int(match[1]), weight


def _interleave_rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Interleave the two halves of each head's rows (heads * dim, in)."""
    rows, width = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, width)
    return halves.transpose(1, 2).reshape(rows, width)
