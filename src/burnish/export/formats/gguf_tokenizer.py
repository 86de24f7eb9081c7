"""A Hugging Face tokenizer as the fields of a GGUF file, such that llama.cpp's tokens equal ours.

llama.cpp knows a pre-tokenizer (how text is cut before merging) only by a name, so a tokenizer
whose cuts have no name there is refused: its tokens would silently be others.
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
#: llama.cpp's name → how text is cut before merging (src/llama-vocab.cpp).
PRE_TOKENIZER_RULES = {
    **PRE_TOKENIZERS,
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
#: Here a word that is a token stays whole, whatever the merges say.
WHOLE_WORDS = {"llama-bpe"}


class CannotExport(BurnishError):
    """A model that can't be written in the wanted format without changing what it says."""


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Write tokens, types, merges, special tokens and the chat template.

    `size` is the number of rows of the embedding; rows without a token get a name of their own.
    Raises CannotExport for a tokenizer that llama.cpp would read otherwise.
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
    """llama.cpp's name for how this tokenizer cuts text."""
    if backend["model"]["type"] != "BPE" or backend["model"].get("byte_fallback"):
        raise CannotExport(
            "This tokenizer isn't a byte-level BPE; its GGUF form would not give the same tokens.",
            "Export with --to merged instead.",
        )
    if backend.get("normalizer") is not None:
        raise CannotExport(
            "This tokenizer changes the text (a normalizer) before it cuts it; llama.cpp doesn't.",
            "Export with --to merged instead.",
        )
    cut = tokenizer.backend_tokenizer.pre_tokenizer
    whole = bool(backend["model"].get("ignore_merges"))
    for name, known in PRE_TOKENIZER_RULES.items():
        if _without_offsets(cut) == _without_offsets(known) and whole == (name in WHOLE_WORDS):
            return name
    raise CannotExport(
        "llama.cpp has no name that we know for how this tokenizer cuts text.",
        f"Known are: {', '.join(PRE_TOKENIZER_RULES)}. Export with --to merged instead.",
    )


def _without_offsets(cut: Any) -> dict[str, Any]:
    """A pre-tokenizer without what only concerns offsets."""
    state = json.loads(cut.__getstate__())
    for part in (state, *state.get("pretokenizers", ())):
        part.pop("trim_offsets", None)
        if part["type"] == "Split":
            part["behavior"] = str(part["behavior"]).lower()
    return dict(state)


def _token_table(
    tokenizer: PreTrainedTokenizerBase, size: int
) -> tuple[list[str], list[gguf.TokenType]]:
    """Each token's text and type; what is added beside the merges is matched before them."""
    added = tokenizer.added_tokens_decoder
    names = {number: text for text, number in tokenizer.get_vocab().items()}
    if max(names) >= size:
        raise CannotExport(f"The tokenizer has token {max(names)}; the model knows {size}.")
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
    # A template puts the first token in by itself; llama.cpp adds it where the tokenizer does.
    writer.add_add_bos_token(bool(getattr(tokenizer, "add_bos_token", False)))
    writer.add_add_eos_token(False)
