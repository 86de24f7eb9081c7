"""The word pieces of an encoder: the same model with fewer of them.

Most weights of a small encoder are the vectors of its pieces, and a domain's texts hold a few
thousand of them. The others can go (Abdaoui et al. 2020, "Load What You Need", arXiv:2010.05609): a
word whose piece is gone is read as shorter ones, down to its characters, which all stay.
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
    """Numbers of the pieces that stay, ascending: special tokens and single characters, then those
    most frequent in `texts` (tokens), then the first of the vocabulary, `count` in all.

    Raises BadRecipe for a tokenizer of another kind, and for more or fewer than can stay.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = backend["model"].get("type")
    if kind != "WordPiece":
        raise BadRecipe(
            f"Only a tokenizer of word pieces can do with fewer; this one is {kind}.",
            "Leave distill.vocab_size out; distill.layers and distill.neurons make it smaller too.",
        )
    vocabulary: dict[str, int] = backend["model"]["vocab"]
    begin = backend["model"]["continuing_subword_prefix"]
    kept = set(tokenizer.all_special_ids)
    kept |= {number for piece, number in vocabulary.items() if len(piece.removeprefix(begin)) == 1}
    if not len(kept) <= count <= len(vocabulary):
        raise BadRecipe(
            f"The tokenizer has {len(vocabulary):,} pieces; {count:,} can't be left, as its "
            f"special tokens and single characters alone are {len(kept):,}.",
            f"Set distill.vocab_size between {len(kept)} and {len(vocabulary)}.",
        )
    used = Counter(token for text in texts for token in text)
    others = sorted(set(vocabulary.values()) - kept, key=lambda number: (-used[number], number))
    return sorted([*kept, *others[: count - len(kept)]])


def keep_pieces(model: Any, kept: Sequence[int]) -> None:
    """Leave an encoder the vectors of these pieces, in their order, in place."""
    whole = model.get_input_embeddings()
    own = torch.nn.Embedding(len(kept), whole.embedding_dim, dtype=whole.weight.dtype)
    own.weight.data.copy_(whole.weight.data[list(kept)])
    place = {number: at for at, number in enumerate(kept)}
    padding = model.config.pad_token_id
    own.padding_idx = None if whole.padding_idx is None else place[whole.padding_idx]
    model.set_input_embeddings(own)
    model.config.vocab_size = len(kept)
    model.config.pad_token_id = None if padding is None else place[padding]


def write_pieces(folder: Path, kept: Sequence[int]) -> None:
    """Number the pieces of the tokenizer in a folder anew, without those that are gone."""
    place = {number: at for at, number in enumerate(kept)}
    backend = json.loads((folder / _TOKENIZER).read_text(encoding="utf-8"))
    old: dict[str, int] = backend["model"]["vocab"]
    new = {piece: place[number] for piece, number in old.items() if number in place}
    backend["model"]["vocab"] = new
    for token in backend["added_tokens"]:
        token["id"] = place[token["id"]]
    if padding := backend.get("padding"):
        padding["pad_id"] = place[padding["pad_id"]]
    _renumber(backend.get("post_processor") or {}, place)
    text = json.dumps(backend, ensure_ascii=False)
    (folder / _TOKENIZER).write_text(text, encoding="utf-8")
    if (folder / _WORDS).exists():
        lines = sorted(new, key=new.__getitem__)
        (folder / _WORDS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _renumber(processor: dict[str, Any], place: dict[int, int]) -> None:
    """The special tokens that a post-processor puts around a text, in both forms it may have."""
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [place[number] for number in token["ids"]]
    for name in ("cls", "sep"):
        if name in processor:
            piece, number = processor[name]
            processor[name] = [piece, place[number]]
