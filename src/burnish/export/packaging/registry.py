"""Additional files that other programs need in an exported folder: the table TARGETS.

Modelfiles for Ollama are always written (`export.packaging.ollama`); these are written if
`export.ready_for` names the program.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from transformers import PreTrainedTokenizerBase

from burnish.core.atomic import write_atomic, write_json
from burnish.core.errors import Unavailable
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.packaging.mlflow import write_mlflow
from burnish.export.packaging.turn_template import extract_turn_template
from burnish.models.artifact import Artifact

_CONTENT = "{Content}"


def _write_foundry(written: Artifact, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Write `inference_model.json`, which Foundry Local reads beside the ONNX model."""
    turn_template = extract_turn_template(tokenizer)
    assert turn_template is not None
    prompts = {
        role: f"{left}{_CONTENT}{right}" for role, (left, right) in turn_template.around.items()
    }
    prompt = prompts["user"] + turn_template.generation_prompt
    if written.system:
        prompt = prompts["system"].replace(_CONTENT, written.system) + prompt
    write_json(
        written.path / "inference_model.json",
        {"Name": name, "PromptTemplate": {**prompts, "prompt": prompt}},
    )


def _write_lm_studio(written: Artifact, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Link `lmstudio/burnish/NAME/NAME-QUANT.gguf`: publisher, model and file in LM Studio's
    layout."""
    export = written.lineage["export"]
    folder = written.path / "lmstudio" / "burnish" / name
    folder.mkdir(parents=True, exist_ok=True)
    source, target = written.path / export["file"], folder / f"{name}-{export['quant']}.gguf"
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copy2(source, target)


def _write_vllm(written: Artifact, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Write `vllm.sh`: the command that serves the folder, from any location."""
    words = ["vllm", "serve", '"$here"', "--served-model-name", shlex.quote(name)]
    if written.kind == "adapter":
        config = json.loads((written.path / "adapter_config.json").read_text(encoding="utf-8"))
        # vLLM supports certain ranks only; this is the maximum that it will load.
        rank = next(
            supported for supported in (8, 16, 32, 64, 128, 256, 512) if config["r"] <= supported
        )
        words = ["vllm", "serve", '"${1:?the folder or hub id of ' + written.base + '}"']
        words += ["--enable-lora", "--max-lora-rank", str(rank)]
        # One slot more than adapters: vLLM confuses the base with the last slot (vllm#48421).
        words += ["--max-loras", "2", "--lora-modules", f'{shlex.quote(name)}="$here"']
    text = '#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\nexec ' + " ".join(words) + "\n"
    file = written.path / "vllm.sh"
    write_atomic(file, text)
    file.chmod(0o755)


@dataclass(frozen=True, slots=True)
class Target:
    """What a program needs: formats of `--to`, a writer, and the required library."""

    formats: tuple[str, ...]
    write: Callable[[Artifact, PreTrainedTokenizerBase, str], None]
    needs_turn_template: bool = False
    library: str | None = None


TARGETS: Mapping[str, Target] = {
    "foundry": Target(("onnx",), _write_foundry, needs_turn_template=True),
    "lmstudio": Target(("gguf",), _write_lm_studio),
    "mlflow": Target(("merged",), write_mlflow, library="mlflow"),
    "vllm": Target(("merged", "adapter"), _write_vllm),
}


def check_targets(
    programs: Iterable[str], to: str, artifact: Artifact, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise CannotExport if one of the programs can't take the export, Unavailable without the
    library that writes its files."""
    for program in programs:
        target = TARGETS[program]
        if target.library and find_spec(target.library) is None:
            raise Unavailable(
                f"{program} needs the library {target.library}.",
                f"pip install 'burnish[{program}]'",
            )
        if to not in target.formats:
            raise CannotExport(
                f"{program} doesn't take --to {to}.", f"Use --to {' or '.join(target.formats)}."
            )
        if target.needs_turn_template and extract_turn_template(tokenizer) is None:
            raise CannotExport(
                f"The chat template can't be expressed for {program}: it does more than put text "
                "around each message.",
                "Serve the folder with ORT-GenAI, which runs the template itself.",
            )
        if (program, to) == ("vllm", "adapter") and not _is_plain_lora(artifact):
            raise CannotExport(
                "vLLM loads plain LoRA adapters only, on weights that aren't rounded.",
                "Use --to merged, or train.method=lora.",
            )


def _is_plain_lora(artifact: Artifact) -> bool:
    if artifact.kind != "adapter" or artifact.rounding_format:
        return False
    config = json.loads((artifact.path / "adapter_config.json").read_text(encoding="utf-8"))
    return bool(config["peft_type"] == "LORA" and not config.get("use_dora"))


def write_targets(
    programs: Iterable[str], written: Artifact, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write the files of each program into an exported folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(written.lineage.get("run", written.base)))
    for program in programs:
        TARGETS[program].write(written, tokenizer, name)
