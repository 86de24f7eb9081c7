"""OpenVINO's own model and tokenizer, made by OpenVINO GenAI from a GGUF file, in a child.

Its reader takes the blocks of a GGUF file as they are, so that nothing is rounded twice, and keeps
what it has read (`enable_save_ov_model`).
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from burnish.core.progress import progress
from burnish.core.settings import child_environment
from burnish.engines.external.openvino import check_openvino_installed
from burnish.export.formats.gguf_tokenizer import CannotExport

#: Number format → that of the GGUF file which is read.
PRECISIONS: Mapping[str, str] = {"int8": "q8_0", "int4": "q4_0", "fp16": "f16"}
_NEEDED = tuple(
    f"openvino_{part}.{end}"
    for part in ("model", "tokenizer", "detokenizer")
    for end in ("xml", "bin")
)
#: Without its telemetry, which tells its makers of each conversion, OpenVINO takes a stub for it.
_CONVERT_SCRIPT = (
    "import sys\n"
    "sys.modules['openvino_telemetry'] = None\n"
    "import openvino_genai\n"
    "openvino_genai.LLMPipeline(sys.argv[1], 'CPU', enable_save_ov_model=True)\n"
)


def build_openvino(source: Path, folder: Path) -> None:
    """Make OpenVINO's files of a GGUF file in `folder`.

    Raises Unavailable without OpenVINO, CannotExport if its reader makes no model.
    """
    check_openvino_installed()
    with progress("Building for OpenVINO", total=1):
        done = subprocess.run(
            [sys.executable, "-c", _CONVERT_SCRIPT, str(source)],
            capture_output=True, text=True, errors="replace", check=False,
            env=child_environment({}),
        )  # fmt: skip
    made = [source.parent / name for name in _NEEDED]
    if done.returncode or not all(file.exists() for file in made):
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CannotExport(
            f"OpenVINO made no model: {said[-1][:300] if said else 'it said nothing'}",
            "Export with --to merged or gguf instead.",
        )
    for file in made:
        file.rename(folder / file.name)
