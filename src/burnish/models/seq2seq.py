"""A trained encoder-decoder as a folder: an artifact of kind `seq2seq`.

Its files are those of a classifier (models.heads.classifier): full weights, or an adapter. Prompts
are the source and answers the target, both encoded by `models.chat_template`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from burnish.core.atomic import hash_bytes
from burnish.core.errors import BadRecipe
from burnish.models.artifact import Artifact, find_base
from burnish.models.heads.classifier import save_head_model
from burnish.models.load import default_device
from burnish.models.local_models import LocalModel

#: Token limit for relative positions, such as T5's, which have none of their own; far beyond the
#: 512 of most pretraining.
_RELATIVE_POSITIONS_LIMIT = 2048

_CARD = """# An encoder-decoder, trained from {base}

It reads the texts of all messages, joined by blank lines, without a chat template. `burnish serve
{run}` answers with it; `burnish evaluate --source {run}` measures it.
"""


def load_seq2seq(local: LocalModel, dtype: torch.dtype) -> Any:
    """Load an encoder-decoder in evaluation mode, on the GPU if there is one.

    Raises BadRecipe if transformers finds none in that folder, or its decoder start token is
    unknown.
    """
    return _load(local.path, local.name, dtype)


def _load(folder: Path, name: str, dtype: torch.dtype) -> Any:
    try:
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True
        )
    except ValueError as error:
        raise BadRecipe(
            f"transformers finds no text encoder-decoder in {name}.",
            "Name another model in model.name, such as a T5 or a BART.",
        ) from error
    if decoder_start(model) is None:
        raise BadRecipe(
            f"The config of {name} lacks its decoder's start token.",
            'Write "decoder_start_token_id" into its config.json and pull it again.',
        )
    return model.to(default_device()).eval()


def decoder_start(model: Any) -> int | None:
    """Return the token that precedes every answer."""
    token: int | None = getattr(model.config, "decoder_start_token_id", None)
    return model.generation_config.decoder_start_token_id if token is None else token


def shift_right(model: Any, targets: torch.Tensor) -> torch.Tensor:
    """Return targets (rows, tokens) shifted behind the decoder's start token: its inputs."""
    begin = torch.full_like(targets[:, :1], int(decoder_start(model) or 0))
    return torch.cat([begin, targets[:, :-1]], dim=1)


def max_lengths(config: Any) -> tuple[int, int]:
    """Return the token limits of encoder and decoder."""
    encoder, decoder = (_positions(getattr(config, s, config), s) for s in ("encoder", "decoder"))
    return encoder, decoder


def _positions(config: Any, side: str) -> int:
    for name in (f"max_{side}_position_embeddings", "max_position_embeddings"):
        if limit := getattr(config, name, None):
            return int(limit)
    return _RELATIVE_POSITIONS_LIMIT


def save_seq2seq(
    folder: Path, model: Any, tokenizer: Tokenizer, base: LocalModel, lineage: Mapping[str, Any]
) -> Artifact:
    """Write a trained encoder-decoder atomically; an older one in its place is replaced."""
    facts = {
        "kind": "seq2seq",
        "base": base.identity,
        "template_sha256": hash_bytes(str(tokenizer.chat_template).encode()),
        **lineage,
    }
    card = _CARD.format(base=base.name, run=lineage.get("run", folder.name))
    return save_head_model(folder, model, tokenizer, facts, card)


def load_trained_seq2seq(artifact: Artifact, dtype: torch.dtype) -> tuple[Any, Tokenizer]:
    """Load model and tokenizer that `save_seq2seq` wrote; an adapter is merged, in float32.

    Raises NotFound or BadData if an adapter's base isn't here, or differs.
    """
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    if not has_adapter(artifact):
        return _load(artifact.path, artifact.path.name, dtype), tokenizer
    base = load_seq2seq(find_base(artifact), torch.float32)
    adapted = PeftModel.from_pretrained(base, artifact.path, autocast_adapter_dtype=False)
    model: Any = adapted.float().merge_and_unload()
    return model.to(dtype).eval(), tokenizer


def has_adapter(artifact: Artifact) -> bool:
    """Return whether an adapter was trained, not full weights."""
    return (artifact.path / "adapter_config.json").exists()
