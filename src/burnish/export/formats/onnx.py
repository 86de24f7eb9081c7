"""ONNX for ORT-GenAI: made by its own model builder, in a process of its own.

What counts is whether the files are there: builders have ended with exit code 0 and left nothing.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from burnish.core.errors import Unavailable
from burnish.core.progress import progress
from burnish.core.settings import child_environment
from burnish.export.formats.gguf_tokenizer import CannotExport


@dataclass(frozen=True, slots=True)
class OnnxPrecision:
    """What the builder calls a number format, and its extra options."""

    name: str
    options: tuple[str, ...] = ()


def _blocks(bits: int, size: int, symmetric: bool = True) -> OnnxPrecision:
    """Whole numbers in blocks of `size` weights that share a scale, and a zero point of their own
    unless the rounding is symmetric."""
    options = [f"block_size={size}", f"is_symmetric={str(symmetric).lower()}"]
    if not symmetric:
        # ORT-GenAI 0.18 aborts where it loads an embedding with zero points.
        options.append("shared_embeddings=false")
    return OnnxPrecision(f"int{bits}", tuple(options))


#: Number format → how the builder makes it. Blocks of 32 fit every common width.
PRECISIONS: Mapping[str, OnnxPrecision] = {
    "int4": _blocks(4, 32),
    "int4_16": _blocks(4, 16),
    "int4_64": _blocks(4, 64),
    "int4_128": _blocks(4, 128),
    "uint4": _blocks(4, 32, symmetric=False),
    "uint4_16": _blocks(4, 16, symmetric=False),
    "uint4_64": _blocks(4, 64, symmetric=False),
    "uint4_128": _blocks(4, 128, symmetric=False),
    "int8": _blocks(8, 32),
    "fp16": OnnxPrecision("fp16"),
    "fp32": OnnxPrecision("fp32"),
}
#: Of a prompt only its last place is asked for the next token: all others don't reach the head,
#: which is a fifth of a small model's products (19 % more tokens read a second).
_ALWAYS = ("prune_lm_head=true",)
_NEEDED = ("model.onnx", "genai_config.json")


def build_onnx(source: Path, folder: Path, precision: str, adapter: Path | None = None) -> None:
    """Make the ONNX files of a Hugging Face folder in `folder`; an adapter of PEFT's files gets
    branches of its own in the graph.

    Raises Unavailable without the builder, CannotExport if it makes no model.
    """
    if not all(importlib.util.find_spec(name) for name in ("onnxruntime_genai", "onnx_ir")):
        raise Unavailable(
            "ONNX is made by onnxruntime-genai's model builder.", "pip install 'burnish[onnx]'"
        )
    made = PRECISIONS[precision]
    options = [*_ALWAYS, *made.options, *([f"adapter_path={adapter}"] if adapter else [])]
    with tempfile.TemporaryDirectory() as cache, progress(f"Building {precision}", total=1):
        done = subprocess.run(
            [
                sys.executable, "-m", "onnxruntime_genai.models.builder",
                "-i", str(source), "-o", str(folder), "-c", cache,
                "-p", made.name, "-e", "cpu",
                "--extra_options", *options,
            ],
            capture_output=True,
            text=True,
            errors="replace",
            env=child_environment({"HF_HUB_OFFLINE": "1"}),
            check=False,
        )  # fmt: skip
    if done.returncode or not all((folder / name).exists() for name in _NEEDED):
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CannotExport(
            "The model builder of ORT-GenAI made no model: "
            f"{said[-1][:300] if said else 'it said nothing'}",
            "Export with --to merged or gguf instead.",
        )
