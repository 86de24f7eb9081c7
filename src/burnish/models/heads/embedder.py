"""Sentence embeddings from a model folder in sentence-transformers' layout.

`modules.json` lists the steps after the transformer. Supported: mean pooling of the token vectors,
then normalization (Reimers & Gurevych 2019, arXiv:1908.10084). A folder with anything else is
rejected, since its vectors would be silently wrong.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from burnish.core.atomic import atomic_folder, hash_file, write_json
from burnish.core.errors import BadRecipe
from burnish.core.scripts import SCRIPTS, count_letters
from burnish.models.artifact import Artifact, open_artifact
from burnish.models.load import default_device, load_tokenizer
from burnish.models.local_models import ARTIFACT_FILE, LocalModel, write_manifest

_SETTINGS = "sentence_bert_config.json"
_MODULES = ["Transformer", "Pooling", "Normalize"]


class Embedder:
    """Encodes texts as unit vectors, float32 of shape (texts, `width`); their dot product is the
    cosine."""

    def __init__(self, local: LocalModel) -> None:
        check_embedder_supported(local)
        self.name, self.sha256 = local.name, local.sha256
        self.languages, self.scripts = local.languages, local.scripts
        self.max_tokens = int(_read_json(local.path / _SETTINGS)["max_seq_length"])
        self.tokenizer: Any = load_tokenizer(local)
        model: Any = AutoModel.from_pretrained(
            local.path, dtype=torch.float32, local_files_only=True
        )
        self.model = model.to(default_device()).eval()
        self.width = int(model.config.hidden_size)

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        advance: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return one vector per text, in order; a text is cut after `max_tokens` tokens.

        `advance(n)` is called when n more texts are done.
        """
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for begin in range(0, len(order), batch_size):
            indices = order[begin : begin + batch_size]
            vectors[indices] = self._encode_batch([texts[index] for index in indices])
            if advance:
                advance(len(indices))
        return vectors

    def knows(self, text: str) -> bool:
        """Return whether the model was trained for the script of at least half of the letters.

        A model that doesn't say its scripts is trusted with every text.
        """
        if not self.scripts:
            return True
        letters = count_letters(text)
        return 2 * sum(letters[script] for script in self.scripts) >= letters.total()

    @property
    def trained_for(self) -> str:
        """The languages of the training, or its scripts where the languages aren't said."""
        return ", ".join(self.languages) or f"{', '.join(self.scripts)} script"

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Return start and end of each token of `text`, in characters, without special tokens."""
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [(int(begin), int(end)) for begin, end in encoding["offset_mapping"]]

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> np.ndarray:
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        unit: np.ndarray = embed_tokens(self.model, tokens).cpu().numpy()
        return unit


def embed_tokens(model: Any, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return unit vectors (texts, width), float32, of padded texts (see models/padding.py).

    Training and serving share this function.
    """
    states = model(**tokens).last_hidden_state.float()
    mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
    mean = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=1)


def save_embedder(
    folder: Path, model: Any, base: LocalModel, max_tokens: int, lineage: Mapping[str, Any]
) -> Artifact:
    """Write a tuned embedding model as an artifact that is a model folder too, usable wherever a
    pulled model is. An older one in its place is replaced."""
    with atomic_folder(folder, replace=True) as draft:
        model.save_pretrained(draft, safe_serialization=True)
        for name in ("modules.json", "1_Pooling/config.json"):
            (draft / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base.path / name, draft / name)
        settings = _read_json(base.path / _SETTINGS) | {"max_seq_length": max_tokens}
        write_json(draft / _SETTINGS, settings)
        # Save the base's tokenizer unchanged, without a template or length limit of ours.
        AutoTokenizer.from_pretrained(base.path, local_files_only=True).save_pretrained(draft)
        manifest = {
            "name": str(lineage.get("run", folder.name)),
            "kind": "embedding",
            "licence": base.licence,
            "context_length": max_tokens,
            "has_template": False,
            "source": f"tuned from {base.name}",
        }
        write_manifest(draft, manifest)
        files = sorted(file for file in draft.rglob("*") if file.is_file())
        facts = {
            "kind": "embedder",
            "base": base.identity,
            **lineage,
            "files": {str(file.relative_to(draft)): hash_file(file) for file in files},
        }
        write_json(draft / ARTIFACT_FILE, facts)
    return open_artifact(folder)


def check_embedder_supported(local: LocalModel) -> None:
    """Raise BadRecipe unless the folder's modules are those that `Embedder` implements."""
    if local.kind != "embedding":
        raise BadRecipe(
            f"{local.name} is a {local.kind} model; it doesn't embed texts.",
            "Name an embedding model: all-minilm-l6-v2",
        )
    if unknown := [script for script in local.scripts if script not in SCRIPTS]:
        raise BadRecipe(
            f"The manifest of {local.name} names scripts that are not known: {', '.join(unknown)}.",
            f"Known scripts: {', '.join(SCRIPTS)}.",
        )
    modules = [item["type"].rpartition(".")[2] for item in _read_json(local.path / "modules.json")]
    pooling = _read_json(local.path / "1_Pooling" / "config.json") if modules == _MODULES else {}
    used = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True]
    if used != ["pooling_mode_mean_tokens"]:
        raise BadRecipe(
            f"{local.name} pools by {', '.join(modules)} {', '.join(used)}; only mean pooling "
            "with normalization is supported.",
            "Name an embedding model that does so: all-minilm-l6-v2",
        )


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
