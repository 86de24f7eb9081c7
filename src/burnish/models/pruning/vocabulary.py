"""Vocabulary pruning: an encoder with a smaller WordPiece vocabulary.

Most weights of a small encoder are token embeddings, and a domain's texts use a few thousand of
them. The others can go (Abdaoui et al. 2020, "Load What You Need", arXiv:2010.05609): a word whose
token is gone is split into shorter ones, down to single characters, which all stay.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import BadRecipe

_TOKENIZER, _WORDS = "tokenizer.json", "vocab.txt"


def select_pieces(tokenizer: Any, texts: Sequence[Sequence[int]], count: int) -> list[int]:
    """Return the token ids to keep, ascending: special tokens and single characters, then the most
    frequent in `texts` (tokens), then the first of the vocabulary, `count` in all.

    Raises BadRecipe for another kind of tokenizer, and for a `count` out of range.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = backend["model"].get("type")
    if kind != "WordPiece":
        raise BadRecipe(
            f"Only a WordPiece vocabulary can be pruned; this tokenizer is {kind}.",
            "Leave distill.vocab_size out; distill.layers and distill.neurons make it smaller too.",
        )
    vocabulary: dict[str, int] = backend["model"]["vocab"]
    begin = backend["model"]["continuing_subword_prefix"]
    kept = set(tokenizer.all_special_ids)
    kept |= {number for piece, number in vocabulary.items() if len(piece.removeprefix(begin)) == 1}
    if not len(kept) <= count <= len(vocabulary):
        raise BadRecipe(
            f"The tokenizer has {len(vocabulary):,} tokens, of which {len(kept):,} are special or "
            f"single characters; it can't be pruned to {count:,}.",
            f"Set distill.vocab_size between {len(kept)} and {len(vocabulary)}.",
        )
    used = Counter(token for text in texts for token in text)
    others = sorted(set(vocabulary.values()) - kept, key=lambda number: (-used[number], number))
    return sorted([*kept, *others[: count - len(kept)]])


def keep_pieces(model: Any, kept: Sequence[int]) -> None:
    """Keep only these token embeddings of an encoder, in this order, in place."""
    embeddings = model.get_input_embeddings()
    pruned = torch.nn.Embedding(len(kept), embeddings.embedding_dim, dtype=embeddings.weight.dtype)
    pruned.weight.data.copy_(embeddings.weight.data[list(kept)])
    new_ids = {number: new_id for new_id, number in enumerate(kept)}
    padding = model.config.pad_token_id
    pruned.padding_idx = None if embeddings.padding_idx is None else new_ids[embeddings.padding_idx]
    model.set_input_embeddings(pruned)
    model.config.vocab_size = len(kept)
    model.config.pad_token_id = None if padding is None else new_ids[padding]


def write_pieces(folder: Path, kept: Sequence[int]) -> None:
    """Renumber the vocabulary of the tokenizer in a folder, without the pruned tokens."""
    new_ids = {number: new_id for new_id, number in enumerate(kept)}
    backend = json.loads((folder / _TOKENIZER).read_text(encoding="utf-8"))
    old: dict[str, int] = backend["model"]["vocab"]
    new = {piece: new_ids[number] for piece, number in old.items() if number in new_ids}
    backend["model"]["vocab"] = new
    for token in backend["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    if padding := backend.get("padding"):
        padding["pad_id"] = new_ids[padding["pad_id"]]
    _renumber(backend.get("post_processor") or {}, new_ids)
    text = json.dumps(backend, ensure_ascii=False)
    (folder / _TOKENIZER).write_text(text, encoding="utf-8")
    if (folder / _WORDS).exists():
        lines = sorted(new, key=new.__getitem__)
        (folder / _WORDS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _renumber(processor: dict[str, Any], new_ids: dict[int, int]) -> None:
    """Renumber the special tokens that a post-processor adds, in both forms it may have."""
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new_ids[number] for number in token["ids"]]
    for name in ("cls", "sep"):
        if name in processor:
            piece, number = processor[name]
            processor[name] = [piece, new_ids[number]]
