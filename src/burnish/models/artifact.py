"""A trained model as a folder: adapter or weights, tokenizer and template, and its lineage.

artifact/adapter_config.json, adapter_model.safetensors   as PEFT writes them; or
artifact/config.json, model.safetensors                   after full fine-tuning; or
artifact/bottleneck.json, bottleneck.safetensors          a non-PEFT adapter (NON_PEFT_ADAPTERS)
artifact/tokenizer.json, chat_template.jinja, ...
artifact/artifact.json                                    lineage and hashes, written last

A linear classifier on sentence vectors (`models/heads/linear.py`), a model with a classification
head (`models/heads/classifier.py`), a token classifier (`models/heads/token_classifier.py`), an
embedding model (`models/heads/embedder.py`), an encoder-decoder (`models/seq2seq.py`) and a
vision-language model (`models/vision.py`) are artifacts too.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from burnish.core.atomic import atomic_folder, hash_bytes, hash_file, write_json
from burnish.core.errors import BadData, NotFound
from burnish.models.adapters.bottleneck import has_bottlenecks, load_bottlenecks, save_bottlenecks
from burnish.models.adapters.soft_prompts import has_soft_prompt, load_soft_prompt, save_soft_prompt
from burnish.models.chat_template import set_thinking
from burnish.models.load import default_device, load_model
from burnish.models.local_models import ARTIFACT_FILE, LocalModel, find_model
from burnish.models.quantization.nf4 import round_trip
from burnish.models.quantization.q4_0 import round_model_to_q4_0


@dataclass(frozen=True, slots=True)
class NonPeftAdapter:
    """An adapter that PEFT cannot store: how to detect, save and load it."""

    is_in: Callable[[Any], bool]
    save: Callable[[Any, Path, str], None]
    load: Callable[[Any, Path], None]


#: Kind of artifact → adapter beside the base. It can't be merged into the base's weights.
NON_PEFT_ADAPTERS = {
    "bottleneck": NonPeftAdapter(has_bottlenecks, save_bottlenecks, load_bottlenecks),
    "virtual": NonPeftAdapter(has_soft_prompt, save_soft_prompt, load_soft_prompt),
}

ArtifactKind = Literal[
    "adapter", "full", "linear", "classifier", "token_classifier", "embedder", "reward", "gguf",
    "onnx", "openvino", "bottleneck", "virtual", "seq2seq", "vision",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Artifact:
    """A trained model: base + adapter, full weights, or a linear head on vectors.

    `system` is the system prompt of its training. `lineage` holds the base's name and hash, the
    hashes of data and template, recipe and versions.
    """

    path: Path
    base: str
    kind: ArtifactKind
    system: str | None
    lineage: Mapping[str, Any]

    @property
    def reasoning_tokens(self) -> int:
        """Token budget of the reasoning that it was trained to write; 0 if it answers directly."""
        return int(self.lineage.get("thoughts", 0))

    @property
    def rounding_format(self) -> str | None:
        """The 4-bit format to which its (merged) weights were rounded in training: the rounded
        model is the trained one."""
        name: str | None = self.lineage.get("rounded")
        return name

    @property
    def quantized(self) -> Mapping[str, Any] | None:
        """How the base's weights were quantized while the adapter was trained, if they were."""
        settings: Mapping[str, Any] | None = self.lineage.get("quantized")
        return settings


def save_artifact(
    folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    base: LocalModel,
    lineage: Mapping[str, Any],
) -> Artifact:
    """Write a trained model atomically; an older one in its place is replaced."""
    kind, tokenizer = _artifact_kind(model), set_thinking(tokenizer, bool(lineage.get("thoughts")))
    with atomic_folder(folder, replace=True) as draft:
        if kind == "adapter":
            # A path of this machine means nothing elsewhere.
            for config in model.peft_config.values():
                config.base_model_name_or_path = base.name
        if kind in NON_PEFT_ADAPTERS:
            NON_PEFT_ADAPTERS[kind].save(model, draft, base.name)
        else:
            # `False` because "auto" asks the hub whether the base's vocabulary was changed.
            extra = {"save_embedding_layers": False} if kind == "adapter" else {}
            model.save_pretrained(draft, safe_serialization=True, **extra)
        tokenizer.save_pretrained(draft)
        (draft / "README.md").unlink(missing_ok=True)
        facts = {
            "kind": kind,
            "base": base.identity,
            "template_sha256": hash_bytes(str(tokenizer.chat_template).encode()),
            **lineage,
            "files": {file.name: hash_file(file) for file in sorted(draft.iterdir())},
        }
        write_json(draft / ARTIFACT_FILE, facts)
    return open_artifact(folder)


def open_artifact(folder: Path) -> Artifact:
    """Read an artifact and check that its files are unchanged. Raises NotFound, BadData."""
    file = folder / ARTIFACT_FILE
    if not file.exists():
        raise NotFound(f"There is no trained model in {folder}.", "Train one: burnish train.")
    facts = json.loads(file.read_text(encoding="utf-8"))
    changed = [
        name
        for name, sha256 in facts["files"].items()
        if not (folder / name).exists() or hash_file(folder / name) != sha256
    ]
    if changed:
        raise BadData(
            f"{folder} is not the model that was trained: {', '.join(changed)} changed.",
            "Restore the file, or train again.",
        )
    return Artifact(folder, facts["base"]["name"], facts["kind"], facts.get("system"), facts)


def load_artifact_model(
    artifact: Artifact, dtype: torch.dtype
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load weights and tokenizer of an artifact, in evaluation mode. An adapter that was trained on
    rounded weights comes merged and rounded.

    Raises BadData if the local base isn't the one that the adapter was trained on.
    """
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    if artifact.kind == "full":
        model: Any = AutoModelForCausalLM.from_pretrained(
            artifact.path, dtype=dtype, local_files_only=True
        )
        if artifact.rounding_format:
            round_model_to_q4_0(model)
        return model.to(default_device()).eval(), tokenizer
    model = load_model(find_base(artifact), dtype)
    if artifact.quantized:
        round_trip(model, artifact.quantized["double_quant"])
    if artifact.kind in NON_PEFT_ADAPTERS:
        NON_PEFT_ADAPTERS[artifact.kind].load(model, artifact.path)
        return model.eval(), tokenizer
    adapted = PeftModel.from_pretrained(model, artifact.path, autocast_adapter_dtype=False)
    if artifact.rounding_format:
        merged: Any = adapted.float().merge_and_unload()
        round_model_to_q4_0(merged)
        return merged.to(dtype).eval(), tokenizer
    return adapted.to(dtype).eval(), tokenizer


def _artifact_kind(model: Any) -> str:
    if hasattr(model, "peft_config"):
        return "adapter"
    return next((kind for kind, added in NON_PEFT_ADAPTERS.items() if added.is_in(model)), "full")


def find_base(artifact: Artifact) -> LocalModel:
    """Return the base model of an adapter. Raises NotFound, or BadData if it differs from the one
    trained on."""
    base = find_model(artifact.base)
    if base.sha256 != artifact.lineage["base"]["sha256"]:
        raise BadData(
            f"{artifact.base} on this machine is not the model that the adapter was trained on.",
            f"Pull the same version of {artifact.base}, or train again.",
        )
    return base
