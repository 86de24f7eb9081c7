"""A trained vision-language model as a folder: an artifact of kind `vision`.

Its files are those of a classifier (models.heads.classifier), full weights or an adapter, and those
of its base's processor, unchanged.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText
from transformers import PreTrainedTokenizerBase as Tokenizer

from burnish.core.errors import BadRecipe
from burnish.models.artifact import Artifact, find_base
from burnish.models.heads.classifier import save_head_model
from burnish.models.image_processor import load_vision_tokenizer
from burnish.models.load import default_device
from burnish.models.local_models import LocalModel
from burnish.models.seq2seq import has_adapter

#: Files of a processor, beside those of its tokenizer.
_FILES = ("*processor*config*.json", "chat_template*")

_CARD = """# A vision-language model, trained from {base}

`burnish serve {run}` answers with it; `burnish evaluate --source {run}` measures it.
"""


def load_vision(folder: Path, name: str, dtype: torch.dtype) -> Any:
    """Load a vision-language model in evaluation mode, on the GPU if there is one.

    Raises BadRecipe if transformers finds none in that folder.
    """
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, local_files_only=True
        )
    except ValueError as error:
        raise BadRecipe(
            f"transformers finds no vision-language model in {name}.", "Name another model."
        ) from error
    return model.to(default_device()).eval()


def save_vision(
    folder: Path, model: Any, tokenizer: Tokenizer, base: LocalModel, lineage: Mapping[str, Any]
) -> Artifact:
    """Write a trained vision-language model atomically; an older one in its place is replaced."""
    facts = {"kind": "vision", "base": base.identity, **lineage}
    card = _CARD.format(base=base.name, run=lineage.get("run", folder.name))
    return save_head_model(
        folder, model, _TokenizerWithProcessor(tokenizer, base.path), facts, card
    )


@dataclass(frozen=True, slots=True)
class _TokenizerWithProcessor:
    """A tokenizer with the files of its base's processor, unchanged."""

    tokenizer: Tokenizer
    base: Path

    def save_pretrained(self, folder: Path, /) -> None:
        """Write both into a folder."""
        self.tokenizer.save_pretrained(folder)
        for pattern in _FILES:
            for file in self.base.glob(pattern):
                shutil.copyfile(file, folder / file.name)


def load_trained_vision(artifact: Artifact, dtype: torch.dtype) -> tuple[Any, Tokenizer]:
    """Load model and tokenizer that `save_vision` wrote; an adapter is merged, in float32.

    Raises NotFound or BadData if an adapter's base isn't here, or differs.
    """
    name = artifact.path.name
    if not has_adapter(artifact):
        return (
            load_vision(artifact.path, name, dtype),
            load_vision_tokenizer(artifact.path, name),
        )
    base = find_base(artifact)
    base_model = load_vision(base.path, base.name, torch.float32)
    adapted = PeftModel.from_pretrained(base_model, artifact.path, autocast_adapter_dtype=False)
    model: Any = adapted.float().merge_and_unload()
    return model.to(dtype).eval(), load_vision_tokenizer(artifact.path, name, base.path)
