"""The export formats: the table FORMATS, one writer each.

Every exported folder is an artifact (`models.artifact`): it records its lineage and file hashes,
and contains the tokenizer and template that the model was trained with.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from burnish.core.atomic import atomic_folder, hash_file, write_json
from burnish.core.recipe.export import Export
from burnish.core.recipe.support import CHOICES, allowed, goes_together
from burnish.export.formats.gguf import write_gguf
from burnish.export.formats.gguf_lora import check_not_rounded, write_gguf_adapter
from burnish.export.formats.gguf_quants import QUANTS
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.importance_matrix import Importance
from burnish.export.formats.onnx import PRECISIONS, build_onnx
from burnish.export.formats.openvino import PRECISIONS as OPENVINO_PRECISIONS
from burnish.export.formats.openvino import build_openvino
from burnish.models.artifact import NON_PEFT_ADAPTERS, Artifact, open_artifact
from burnish.models.chat_template import end_of_turn
from burnish.models.local_models import ARTIFACT_FILE
from burnish.models.merge import load_adapted_model, load_merged_model
from burnish.models.seq2seq import has_adapter

OptionalImportance = Importance | None
#: Kinds of artifacts that need their base.
_ADAPTER_KINDS = ("adapter", *NON_PEFT_ADAPTERS)
_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def _write_adapter(
    folder: Path, artifact: Artifact, quant: str, _: OptionalImportance = None
) -> dict[str, Any]:
    """Copy the adapter as trained; its base is referenced, not copied."""
    if artifact.kind not in _ADAPTER_KINDS and not (
        artifact.kind == "seq2seq" and has_adapter(artifact)
    ):
        raise CannotExport("This run trained all weights: it has no adapter.", "Use --to merged.")
    for file in artifact.path.iterdir():
        if file.name in artifact.lineage["files"]:
            shutil.copy2(file, folder)
    return {"file": next(folder.glob("*.safetensors")).name}


def _write_merged(
    folder: Path, artifact: Artifact, quant: str, _: OptionalImportance = None
) -> dict[str, Any]:
    """Write an ordinary Hugging Face folder of safetensors."""
    model, tokenizer = load_merged_model(artifact)
    model.to(_DTYPES[quant])
    # Other engines stop at the tokens of the generation config, so the template's end goes there.
    model.generation_config.eos_token_id = sorted(end_of_turn(tokenizer))
    model.save_pretrained(folder, safe_serialization=True)
    _save_tokenizer(folder, tokenizer)
    return {"file": "model.safetensors"}


def _write_gguf(
    folder: Path, artifact: Artifact, quant: str, importance: OptionalImportance = None
) -> dict[str, Any]:
    """Write one GGUF file, and the tokenizer for our own engine."""
    model, tokenizer = load_merged_model(artifact)
    name = str(artifact.lineage.get("run", artifact.base))
    file = folder / f"model-{quant}.gguf"
    written = write_gguf(file, model, tokenizer, quant, name, importance)
    _save_tokenizer(folder, tokenizer)
    return {"file": file.name, "matrices": written.kinds, "fallen_back": written.fallen_back}


def _write_gguf_lora(
    folder: Path, artifact: Artifact, quant: str, importance: OptionalImportance = None
) -> dict[str, Any]:
    """Write the base and the adapter as two GGUF files."""
    if artifact.kind not in _ADAPTER_KINDS:
        raise CannotExport("This run trained all weights: it has no adapter.", "Use --to gguf.")
    check_not_rounded(artifact)
    adapted, tokenizer = load_adapted_model(artifact)
    write_gguf_adapter(folder / "adapter.gguf", adapted)
    file = folder / f"base-{quant}.gguf"
    base = adapted.unload()
    written = write_gguf(file, base, tokenizer, quant, artifact.base, importance)
    _save_tokenizer(folder, tokenizer)
    return {
        "file": file.name,
        "adapter": "adapter.gguf",
        "matrices": written.kinds,
        "fallen_back": written.fallen_back,
    }


def _write_onnx(
    folder: Path, artifact: Artifact, quant: str, _: OptionalImportance = None
) -> dict[str, Any]:
    """Write a folder for ORT-GenAI, and the tokenizer for our own engine."""
    with tempfile.TemporaryDirectory() as merged:
        _write_merged(Path(merged), artifact, "f32")
        build_onnx(Path(merged), folder, quant)
    _save_tokenizer(folder, AutoTokenizer.from_pretrained(artifact.path, local_files_only=True))
    return {"file": "model.onnx"}


def _write_openvino(
    folder: Path, artifact: Artifact, quant: str, importance: OptionalImportance = None
) -> dict[str, Any]:
    """Write OpenVINO's model and tokenizer, and the tokenizer for our own engine."""
    model, tokenizer = load_merged_model(artifact)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        file = Path(temporary) / "model.gguf"
        kind = OPENVINO_PRECISIONS[quant]
        write_gguf(file, model, tokenizer, kind, artifact.base, importance)
        build_openvino(file, folder)
    model.generation_config.eos_token_id = sorted(end_of_turn(tokenizer))
    model.generation_config.save_pretrained(folder)
    _save_tokenizer(folder, tokenizer)
    return {
        "file": "openvino_model.xml",
        "context_length": model.config.max_position_embeddings,
    }


def _save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One choice of `--to`: its writer, its quantizations (the first is `auto`), and the resulting
    kind of artifact."""

    write: Callable[[Path, Artifact, str, OptionalImportance], dict[str, Any]]
    quants: tuple[str, ...]
    kind: Literal["adapter", "full", "gguf", "onnx", "openvino"]


_GGUF_QUANTS = ("q8_0", *[name for name in QUANTS if name != "q8_0"])
FORMATS = {
    "merged": ExportFormat(_write_merged, tuple(_DTYPES), "full"),
    "adapter": ExportFormat(_write_adapter, ("as trained",), "adapter"),
    "gguf": ExportFormat(_write_gguf, _GGUF_QUANTS, "gguf"),
    "gguf-lora": ExportFormat(_write_gguf_lora, _GGUF_QUANTS, "gguf"),
    "onnx": ExportFormat(_write_onnx, tuple(PRECISIONS), "onnx"),
    "openvino": ExportFormat(_write_openvino, tuple(OPENVINO_PRECISIONS), "openvino"),
}


def check_seq2seq_export(settings: Export, to: str, artifact: Artifact) -> None:
    """Raise CannotExport for settings that an encoder-decoder doesn't support."""
    if artifact.kind != "seq2seq":
        return
    if not goes_together("model", "seq2seq", "format", to):
        raise CannotExport(
            f"--to {to} is for language models; {artifact.path} is an encoder-decoder.",
            "Use --to merged: a folder of safetensors, which transformers reads.",
        )
    for name in CHOICES["export"]:
        if getattr(settings, name) and not goes_together("model", "seq2seq", "export", name):
            raise CannotExport(
                f"export.{name} is for language models; {artifact.path} is an encoder-decoder.",
                f"Leave export.{name} out.",
            )


def resolve_quant(to: str, quant: str) -> str:
    """Return the quantization; `auto` is the format's default. Raises CannotExport for an unknown
    one."""
    quants = FORMATS[to].quants
    if quant == "auto":
        return quants[0]
    if quant not in quants:
        raise CannotExport(
            f"--to {to} doesn't support {quant}.", f"Supported: {', '.join(quants)}."
        )
    return quant


def write_export(
    folder: Path, artifact: Artifact, to: str, quant: str, importance: OptionalImportance = None
) -> Artifact:
    """Write an artifact in another format, atomically. `quant` is from `resolve_quant`,
    `importance` from `compute_importance`.

    Raises CannotExport, AlreadyThere, and what opening the base may raise.
    """
    with atomic_folder(folder) as draft:
        facts = FORMATS[to].write(draft, artifact, quant, importance)
        weighed = {"importance": True} if importance else {}
        write_lineage(draft, artifact, to, {"to": to, "quant": quant, **weighed, **facts})
    return open_artifact(folder)


def _native_formats(artifact: Artifact) -> tuple[str, ...]:
    """Return the formats that keep the artifact's own kind."""
    return allowed("model", "seq2seq", "format") if artifact.kind == "seq2seq" else ("adapter",)


def write_lineage(draft: Path, artifact: Artifact, to: str, facts: Mapping[str, Any]) -> None:
    """Make a written folder an artifact: record its lineage, and the hashes of its files."""
    lineage = {key: value for key, value in artifact.lineage.items() if key != "files"}
    source = {"artifact_sha256": hash_file(artifact.path / ARTIFACT_FILE)}
    write_json(
        draft / ARTIFACT_FILE,
        {
            **lineage,
            "kind": artifact.kind if to in _native_formats(artifact) else FORMATS[to].kind,
            "export": {**facts, **source},
            "files": {file.name: hash_file(file) for file in sorted(draft.iterdir())},
        },
    )
