"""ONNX for ORT-GenAI: made by its own model builder, in a process of its own.

What counts is whether the files are there: builders have ended with exit code 0 and left nothing.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from burnish.core.errors import Unavailable
from burnish.core.progress import progress
from burnish.core.settings import child_environment
from burnish.export.vocabulary import CannotExport

#: Number format → the builder's extra options. Blocks of 32 fit every common width.
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "int4": ("int4_block_size=32",),
    "fp16": (),
    "fp32": (),
}
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
    options = [*PRECISIONS[precision], *([f"adapter_path={adapter}"] if adapter else [])]
    extra = ["--extra_options", *options] if options else []
    with tempfile.TemporaryDirectory() as cache, progress(f"Building {precision}", total=1):
        done = subprocess.run(
            [
                sys.executable, "-m", "onnxruntime_genai.models.builder",
                "-i", str(source), "-o", str(folder), "-c", cache,
                "-p", precision, "-e", "cpu", *extra,
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
