"""OpenVINO's model and tokenizer files, made by OpenVINO GenAI from a GGUF file, in a child
process.

Its reader takes the GGUF blocks unchanged, so that nothing is rounded twice, and saves the
converted model (`enable_save_ov_model`).
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from burnish.core.progress import progress
from burnish.core.settings import child_environment
from burnish.engines.external.openvino import check_openvino_installed
from burnish.export.formats.gguf_tokenizer import CannotExport

#: Quantization → that of the GGUF file to convert.
PRECISIONS: Mapping[str, str] = {"int8": "q8_0", "int4": "q4_0", "fp16": "f16"}
_NEEDED = tuple(
    f"openvino_{part}.{end}"
    for part in ("model", "tokenizer", "detokenizer")
    for end in ("xml", "bin")
)
#: Disable its telemetry, which reports each conversion; OpenVINO then uses a stub.
_CONVERT_SCRIPT = (
    "import sys\n"
    "sys.modules['openvino_telemetry'] = None\n"
    "import openvino_genai\n"
    "openvino_genai.LLMPipeline(sys.argv[1], 'CPU', enable_save_ov_model=True)\n"
)


def build_openvino(source: Path, folder: Path) -> None:
    """Convert a GGUF file to OpenVINO's files in `folder`.

    Raises Unavailable without OpenVINO, CannotExport if its reader makes no model.
    """
    check_openvino_installed()
    with progress("Building for OpenVINO", total=1):
        result = subprocess.run(
            [sys.executable, "-c", _CONVERT_SCRIPT, str(source)],
            capture_output=True, text=True, errors="replace", check=False,
            env=child_environment({}),
        )  # fmt: skip
    outputs = [source.parent / name for name in _NEEDED]
    if result.returncode or not all(file.exists() for file in outputs):
        output = (result.stderr or result.stdout).strip().splitlines()
        raise CannotExport(
            f"OpenVINO made no model: {output[-1][:300] if output else 'no output'}",
            "Export with --to merged or gguf instead.",
        )
    for file in outputs:
        file.rename(folder / file.name)
