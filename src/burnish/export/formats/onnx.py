"""ONNX for ORT-GenAI, made by its own model builder in a child process.

Success is judged by the files: builders have ended with exit code 0 and written nothing.
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
    """The builder's name of a precision, and its extra options."""

    name: str
    options: tuple[str, ...] = ()


def _blocks(bits: int, size: int, symmetric: bool = True) -> OnnxPrecision:
    """Return integers in blocks of `size` weights that share a scale, and a zero point unless
    symmetric."""
    options = [f"block_size={size}", f"is_symmetric={str(symmetric).lower()}"]
    if not symmetric:
        # ORT-GenAI 0.18 aborts when loading an embedding with zero points.
        options.append("shared_embeddings=false")
    return OnnxPrecision(f"int{bits}", tuple(options))


#: Quantization → builder settings. Blocks of 32 fit every common width.
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
#: Compute the head for a prompt's last token only: it is a fifth of a small model's products (19 %
#: more prompt tokens per second).
_ALWAYS = ("prune_lm_head=true",)
_NEEDED = ("model.onnx", "genai_config.json")


def build_onnx(source: Path, folder: Path, precision: str, adapter: Path | None = None) -> None:
    """Write the ONNX files of a Hugging Face folder into `folder`; a PEFT adapter becomes separate
    branches of the graph.

    Raises Unavailable without the builder, CannotExport if it makes no model.
    """
    if not all(importlib.util.find_spec(name) for name in ("onnxruntime_genai", "onnx_ir")):
        raise Unavailable(
            "ONNX is made by onnxruntime-genai's model builder.", "pip install 'burnish[onnx]'"
        )
    settings = PRECISIONS[precision]
    options = [*_ALWAYS, *settings.options, *([f"adapter_path={adapter}"] if adapter else [])]
    with tempfile.TemporaryDirectory() as cache, progress(f"Building {precision}", total=1):
        result = subprocess.run(
            [
                sys.executable, "-m", "onnxruntime_genai.models.builder",
                "-i", str(source), "-o", str(folder), "-c", cache,
                "-p", settings.name, "-e", "cpu",
                "--extra_options", *options,
            ],
            capture_output=True,
            text=True,
            errors="replace",
            env=child_environment({"HF_HUB_OFFLINE": "1"}),
            check=False,
        )  # fmt: skip
    if result.returncode or not all((folder / name).exists() for name in _NEEDED):
        output = (result.stderr or result.stdout).strip().splitlines()
        raise CannotExport(
            "The model builder of ORT-GenAI made no model: "
            f"{output[-1][:300] if output else 'no output'}",
            "Export with --to merged or gguf instead.",
        )
