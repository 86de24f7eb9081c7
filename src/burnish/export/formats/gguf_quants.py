"""GGUF's quantization formats, and how tensors are converted.

`gguf` itself makes the blocks of 32; the K-quants (blocks of 256) are made by ggml's function in
xllamacpp's library. Where a row isn't a multiple of 256 llama.cpp falls back to a format with
blocks of 32, and so do we: with a hidden size of 576, for most tensors.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from burnish.core.errors import Unavailable

F32 = Kind.F32
_BLOCK = 256
#: K-quant → llama.cpp's fallback for a row that isn't a multiple of 256.
FALLBACKS = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}
#: Formats with blocks of 32 that support an importance matrix; the K-quants do too.
_IMPORTANCE_KINDS = (Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1)


def _all_layers(layer: int, layers: int) -> bool:
    return True


def _more_bits(layer: int, layers: int) -> bool:
    """Return whether the `_M` mixes give a layer more bits: the first and last eighth, and each
    third."""
    first, last = layers // 8, 7 * layers // 8
    return layer < first or layer >= last or (layer - first) % 3 == 2


@dataclass(frozen=True, slots=True)
class GgufQuant:
    """One choice of `--quant`: the format of most matrices, and of the exceptions.

    `finer` matrices get `better` in the layers selected by `where`, as in llama.cpp's mixes; the
    output (or the embedding tied to it) gets `output`.
    """

    most: Kind
    file_type: gguf.LlamaFileType
    output: Kind
    better: Kind | None = None
    finer: tuple[str, ...] = ()
    where: Callable[[int, int], bool] = field(default=_all_layers)

    def kind(self, name: str, layer: int, layers: int) -> Kind:
        """Return the format of a matrix by its GGUF name (`attn_v`, `output`, ...)."""
        if name in ("output", "token_embd"):
            return self.output
        if self.better is not None and name in self.finer and self.where(layer, layers):
            return self.better
        return self.most


_FINER = ("attn_v", "ffn_down")
_FILE = gguf.LlamaFileType
QUANTS = {
    "f32": GgufQuant(Kind.F32, _FILE.ALL_F32, Kind.F32),
    "f16": GgufQuant(Kind.F16, _FILE.MOSTLY_F16, Kind.F16),
    "bf16": GgufQuant(Kind.BF16, _FILE.MOSTLY_BF16, Kind.BF16),
    "q8_0": GgufQuant(Kind.Q8_0, _FILE.MOSTLY_Q8_0, Kind.Q8_0),
    "q6_k": GgufQuant(Kind.Q6_K, _FILE.MOSTLY_Q6_K, Kind.Q6_K),
    "q5_k_m": GgufQuant(
        Kind.Q5_K, _FILE.MOSTLY_Q5_K_M, Kind.Q6_K, Kind.Q6_K, _FINER, _more_bits
    ),
    "q5_1": GgufQuant(Kind.Q5_1, _FILE.MOSTLY_Q5_1, Kind.Q8_0),
    "q5_0": GgufQuant(Kind.Q5_0, _FILE.MOSTLY_Q5_0, Kind.Q8_0),
    "q4_k_m": GgufQuant(
        Kind.Q4_K, _FILE.MOSTLY_Q4_K_M, Kind.Q6_K, Kind.Q6_K, _FINER, _more_bits
    ),
    "q4_1": GgufQuant(Kind.Q4_1, _FILE.MOSTLY_Q4_1, Kind.Q8_0),
    "q4_0": GgufQuant(Kind.Q4_0, _FILE.MOSTLY_Q4_0, Kind.Q8_0),
}  # fmt: skip


def fallback_kind(kind: Kind, width: int) -> Kind:
    """Return `kind`, or llama.cpp's fallback for rows of this width; F16 if nothing else fits."""
    if kind in FALLBACKS and width % _BLOCK:
        kind = FALLBACKS[kind]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return kind if width % block == 0 else Kind.F16


def quantize_matrix(
    weights: np.ndarray, kind: Kind, importance: np.ndarray | None = None
) -> np.ndarray:
    """Return a float32 matrix (rows, width) as blocks: bytes (rows, bytes a row), or plain floats.

    With `importance` (width,) ggml weights the error of each column; formats of 8 bits and more
    ignore it. Raises Unavailable for a K-quant, or with importance, without xllamacpp.
    """
    if kind == Kind.F32:
        return weights.astype(np.float32)
    if kind == Kind.F16:
        return weights.astype(np.float16)
    if kind in FALLBACKS or (kind in _IMPORTANCE_KINDS and importance is not None):
        return _quantize_with_ggml(weights, kind, importance)
    return gguf.quants.quantize(weights, kind)


def _quantize_with_ggml(
    weights: np.ndarray, kind: Kind, importance: np.ndarray | None
) -> np.ndarray:
    rows, width = weights.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    source = np.ascontiguousarray(weights, dtype=np.float32)
    blocks = np.empty((rows, width // block * size), dtype=np.uint8)
    weights_by_column = (
        None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    )
    _load_ggml().ggml_quantize_chunk(
        int(kind), source.ctypes.data, blocks.ctypes.data, 0, rows, width,
        None if weights_by_column is None else weights_by_column.ctypes.data,
    )  # fmt: skip
    return blocks


@cache
def _load_ggml() -> ctypes.CDLL:
    try:
        import xllamacpp.xllamacpp as library
    except ImportError as error:
        raise Unavailable(
            "K-quants are made by llama.cpp.", "pip install 'burnish[llamacpp]'"
        ) from error
    opened = ctypes.CDLL(library.__file__)
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    opened.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, pointer, pointer, count, count, count, pointer,
    ]  # fmt: skip
    opened.ggml_quantize_chunk.restype = ctypes.c_size_t
    return opened
