"""A model with a classification head as a folder: an artifact of kind `classifier`.

artifact/config.json, model.safetensors            full weights, as transformers writes them; or
artifact/adapter_config.json, adapter_model.safetensors   an adapter as PEFT does, head included
artifact/tokenizer.json, ...
artifact/artifact.json      labels, token limit of a text, lineage and hashes; written last
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging as transformers_logging

from burnish.core.atomic import atomic_folder, hash_file, write_atomic, write_json
from burnish.core.errors import BadRecipe
from burnish.models.artifact import Artifact, find_base, open_artifact
from burnish.models.load import default_device
from burnish.models.local_models import ARTIFACT_FILE, LocalModel
from burnish.models.padding import pad_batch, padding_token_id

_CARD = """# A classifier of {labels} labels, trained on {base}

`burnish serve {run}` answers with one of the labels; `burnish evaluate --source {run}` measures it.
It reads {most_tokens} tokens of a text. Labels: {names}.
"""


class SequenceClassifier:
    """Computes log-probabilities of labels for texts."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, labels: Sequence[str], max_tokens: int
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.labels, self.max_tokens = tuple(labels), max_tokens

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(int(weight.nbytes) for weight in self.model.parameters())

    @torch.inference_mode()
    def log_probs(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        advance: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return log-probabilities, float32 of shape (texts, labels), in the order of the texts."""
        logs = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for begin in range(0, len(order), batch_size):
            indices = order[begin : begin + batch_size]
            cut = {"truncation": True, "max_length": self.max_tokens}
            ids = self.tokenizer([texts[index] for index in indices], **cut)["input_ids"]
            batch = {k: v.to(self.model.device) for k, v in pad_batch(ids, self.tokenizer).items()}
            logs[indices] = self.model(**batch).logits.float().log_softmax(-1).cpu().numpy()
            if advance:
                advance(len(indices))
        return logs


def build_head_model(
    base: LocalModel,
    labels: Sequence[str],
    tokenizer: Tokenizer,
    dtype: torch.dtype,
    head: Any = AutoModelForSequenceClassification,
) -> Any:
    """Return the base with a new head for these labels, of transformers' class for the task.

    Raises BadRecipe if transformers has none.
    """
    level = transformers_logging.get_verbosity()
    # It would warn that the head is new, as intended.
    transformers_logging.set_verbosity_error()
    try:
        model: Any = head.from_pretrained(
            base.path,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            dtype=dtype,
            local_files_only=True,
        )
    except ValueError as error:
        raise BadRecipe(
            f"transformers has no classification head for {base.name}.",
            "Name another model in model.name: all-minilm-l6-v2",
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
    model.config.pad_token_id = padding_token_id(tokenizer)
    return model.to(default_device())


def save_classifier(
    folder: Path, classifier: SequenceClassifier, base: LocalModel, lineage: Mapping[str, Any]
) -> Artifact:
    """Write a classifier atomically; an older one in its place is replaced."""
    names = classifier.labels
    card = {"labels": len(names), "base": base.name, "run": lineage.get("run", folder.name)}
    words = _CARD.format(**card, most_tokens=classifier.max_tokens, names=", ".join(names))
    facts = {
        "kind": "classifier",
        "base": base.identity,
        "labels": list(names),
        "max_tokens": classifier.max_tokens,
        **lineage,
    }
    return save_head_model(folder, classifier.model, classifier.tokenizer, facts, words)


class SavesPretrained(Protocol):
    """A tokenizer, or an object saved like one."""

    def save_pretrained(self, folder: Path, /) -> Any:
        """Write its files into a folder."""


def save_head_model(
    folder: Path, model: Any, tokenizer: SavesPretrained, facts: Mapping[str, Any], card: str
) -> Artifact:
    """Write a model with a head, its model card and facts, atomically."""
    with atomic_folder(folder, replace=True) as draft:
        for config in getattr(model, "peft_config", {}).values():
            # A path of this machine means nothing elsewhere.
            config.base_model_name_or_path = facts["base"]["name"]
        # `False` because "auto" asks the hub whether the base's vocabulary was changed.
        extra = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        model.save_pretrained(draft, safe_serialization=True, **extra)
        tokenizer.save_pretrained(draft)
        write_atomic(draft / "README.md", card)
        files = {file.name: hash_file(file) for file in sorted(draft.iterdir())}
        write_json(draft / ARTIFACT_FILE, {**facts, "files": files})
    return open_artifact(folder)


def load_classifier(artifact: Artifact) -> SequenceClassifier:
    """Load a classifier whose files `open_artifact` has checked, in float32.

    Raises NotFound or BadData if an adapter's base isn't here, or differs.
    """
    labels, max_tokens = artifact.lineage["labels"], int(artifact.lineage["max_tokens"])
    model, tokenizer = load_head_model(artifact, labels)
    return SequenceClassifier(model, tokenizer, labels, max_tokens)


def load_head_model(
    artifact: Artifact, labels: Sequence[str], head: Any = AutoModelForSequenceClassification
) -> tuple[Any, Tokenizer]:
    """Load model and tokenizer that `save_head_model` wrote, in float32. Raises NotFound,
    BadData."""
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    if (artifact.path / "adapter_config.json").exists():
        model = build_head_model(find_base(artifact), labels, tokenizer, torch.float32, head)
        model = PeftModel.from_pretrained(model, artifact.path, autocast_adapter_dtype=False)
        # A single adapter, not shared: merged it costs no time.
        model = model.to(torch.float32).merge_and_unload()
    else:
        model = head.from_pretrained(artifact.path, dtype=torch.float32, local_files_only=True)
    return model.to(default_device()), tokenizer
