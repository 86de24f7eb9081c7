"""A Hugging Face tokenizer as the fields of a GGUF file, so that llama.cpp's tokens equal ours.

llama.cpp identifies a pre-tokenizer (how text is split before merging) by name only, so a tokenizer
without such a name is rejected: its tokens would silently differ.
"""

import json
from typing import Any

import gguf
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BurnishError
from burnish.models.chat_template import end_of_turn
from burnish.models.gguf_import import PRE_TOKENIZERS

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: llama.cpp's name → how text is split before merging (src/llama-vocab.cpp).
PRE_TOKENIZER_RULES = {
    **PRE_TOKENIZERS,
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
#: Pre-tokenizers that keep a word that is a token whole (`ignore_merges`).
WHOLE_WORDS = {"llama-bpe"}


class CannotExport(BurnishError):
    """The model can't be written in this format without changing its outputs."""


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Write tokens, types, merges, special tokens and the chat template.

    `size` is the number of rows of the embedding; rows without a token get a placeholder name.
    Raises CannotExport for a tokenizer that llama.cpp would apply differently.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer_name(tokenizer, backend))
    tokens, types = _token_table(tokenizer, size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = backend["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    _add_special(writer, tokenizer)
    writer.add_chat_template(str(tokenizer.chat_template))


def _pre_tokenizer_name(tokenizer: PreTrainedTokenizerBase, backend: dict[str, Any]) -> str:
    """Return llama.cpp's name for the pre-tokenizer."""
    if backend["model"]["type"] != "BPE" or backend["model"].get("byte_fallback"):
        raise CannotExport(
            "This tokenizer isn't a byte-level BPE; its GGUF form would not give the same tokens.",
            "Export with --to merged instead.",
        )
    if backend.get("normalizer") is not None:
        raise CannotExport(
            "This tokenizer normalizes the text before splitting it; llama.cpp doesn't.",
            "Export with --to merged instead.",
        )
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    keeps_words = bool(backend["model"].get("ignore_merges"))
    for name, rule in PRE_TOKENIZER_RULES.items():
        if _without_offsets(pre_tokenizer) == _without_offsets(rule) and keeps_words == (
            name in WHOLE_WORDS
        ):
            return name
    raise CannotExport(
        "llama.cpp has no known name for the way this tokenizer splits text.",
        f"Known names: {', '.join(PRE_TOKENIZER_RULES)}. Export with --to merged instead.",
    )


def _without_offsets(pre_tokenizer: Any) -> dict[str, Any]:
    """Return a pre-tokenizer's state without settings that only affect offsets."""
    state = json.loads(pre_tokenizer.__getstate__())
    for part in (state, *state.get("pretokenizers", ())):
        part.pop("trim_offsets", None)
        if part["type"] == "Split":
            part["behavior"] = str(part["behavior"]).lower()
    return dict(state)


def _token_table(
    tokenizer: PreTrainedTokenizerBase, size: int
) -> tuple[list[str], list[gguf.TokenType]]:
    """Return each token's text and type; added tokens are matched before merging."""
    added = tokenizer.added_tokens_decoder
    names = {number: text for text, number in tokenizer.get_vocab().items()}
    if max(names) >= size:
        raise CannotExport(
            f"The tokenizer has token id {max(names)}; the model has only {size} tokens."
        )
    tokens, types = [], []
    for number in range(size):
        tokens.append(names.get(number, f"[unused{number}]"))
        if number not in names:
            types.append(gguf.TokenType.UNUSED)
        elif number in added:
            special = added[number].special
            types.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED)
        else:
            types.append(gguf.TokenType.NORMAL)
    return tokens, types


def _add_special(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    turns = end_of_turn(tokenizer) - {tokenizer.eos_token_id}
    if turns:
        writer.add_eot_token_id(min(turns))
    # Templates insert the BOS token themselves; llama.cpp adds it where the tokenizer does.
    writer.add_add_bos_token(bool(getattr(tokenizer, "add_bos_token", False)))
    writer.add_add_eos_token(False)
