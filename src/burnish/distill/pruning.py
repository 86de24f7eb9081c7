"""A model cut to what a student begins with: fewer layers, neurons, heads or word pieces.

Layers are evenly apart, with the first and the last one. Neurons and heads are those that the
training rows use most, as the whole model reads them (Muralidharan et al. 2024, arXiv:2407.14679),
and so are pieces (models.pieces).
"""

import math
from collections.abc import Sequence
from typing import Any

from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.distill import Distill
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Row
from burnish.data.load import load
from burnish.data.split import sample_rows
from burnish.engines.heads.base import user_text
from burnish.models.chat_template import encode_prompt, encode_row, split_as_served
from burnish.models.pruning.depth import evenly_spaced, keep_layers
from burnish.models.pruning.vocabulary import keep_pieces, select_pieces
from burnish.models.pruning.width import (
    attentions_of,
    keep_groups,
    keep_neurons,
    measure_usage,
    mlps_of,
)

#: Texts as tokens.
Texts = Sequence[Sequence[int]]
#: Rows by which the width is measured.
_ROWS = 256
#: Neurons are left in whole blocks of this many: what formats of few bits round together.
_BLOCK = 32
#: What is told of a model's size, and where its config says it.
_SIZES = {
    "layers": "num_hidden_layers",
    "neurons a layer": "intermediate_size",
    "attention heads": "num_attention_heads",
    "key-value heads": "num_key_value_heads",
    "tokens": "vocab_size",
}


def calibration_rows(recipe: Recipe) -> Sequence[Row]:
    """Training rows by which it is chosen what stays; none where their texts don't decide.

    Up to 256 of them for the width, and all for word pieces. Raises BadRecipe if there are none.
    """
    settings = recipe.distill
    if not (settings.neurons or settings.heads or settings.vocab_size):
        return ()
    found = load(recipe, answered=False).split.train if recipe.data.train else ()
    if not found:
        raise BadRecipe(
            "There are no training rows to choose by what the student keeps.",
            "Name a file with rows in data.train, or leave distill.neurons, distill.heads and "
            "distill.vocab_size out.",
        )
    return found if settings.vocab_size else sample_rows(found, _ROWS, recipe.evaluate.seed)


def tokenize_rows(rows: Sequence[Row], tokenizer: Any, writes: bool, most: int) -> Texts:
    """Rows as at most so many tokens: conversations as a language model learns them, or for an
    encoder what is classified."""
    if not writes:
        cut = {"truncation": True, "max_length": most}
        return [tokenizer(user_text(row.prompt), **cut)["input_ids"] for row in rows]
    return [
        encode_row(tokenizer, part, most).ids
        or encode_prompt(tokenizer, part.prompt, part.tools or ())[:most]
        for row in rows
        for part in split_as_served(tokenizer, row)
    ]


def prune(model: Any, tokenizer: Any, settings: Distill, texts: Texts) -> Sequence[int]:
    """Cut a model in place as the recipe says, and say what is left; `texts` decide it. Returns the
    numbers of the tokens that stay, if some go.

    Raises BadRecipe for more than there is, and for models that can't be cut so.
    """
    before = _sizes(model)
    pieces = select_pieces(tokenizer, texts, settings.vocab_size) if settings.vocab_size else []
    config = model.config.get_text_config()
    mlps = mlps_of(model) if settings.neurons else []
    attentions = attentions_of(model) if settings.heads else []
    some = texts[:: math.ceil(len(texts) / _ROWS)] if texts else []
    used = measure_usage(model, some, [*mlps, *attentions]) if mlps or attentions else []
    if settings.neurons:
        count = _round_to_blocks(settings.neurons, config.intermediate_size)
        keep_neurons(model, count, used[: len(mlps)])
    if settings.heads:
        keep_groups(model, settings.heads, used[len(mlps) :])
    if settings.layers:
        kept = prune_layers(model, settings.layers)
        say(f"Layers kept: {', '.join(str(place + 1) for place in kept)}")
    if pieces:
        keep_pieces(model, pieces)
    for line in _table(before, _sizes(model)):
        say(line)
    return pieces


def prune_layers(model: Any, count: int) -> list[int]:
    """Keep `count` layers of a model, in place; returns which. Raises BadRecipe for too many."""
    total = model.config.num_hidden_layers
    if count > total:
        raise BadRecipe(
            f"The model has {total} layers; {count} can't be kept.", f"Set distill.layers={total}."
        )
    kept = evenly_spaced(count, total)
    keep_layers(model, kept)
    return kept


def _round_to_blocks(share: float, total: int) -> int:
    """That share of the neurons, in whole blocks where there is more than one."""
    blocks = max(round(share * total / _BLOCK), 1)
    return min(blocks * _BLOCK, total)


def _sizes(model: Any) -> dict[str, int]:
    config = model.config.get_text_config()
    found = {name: int(getattr(config, field, None) or 0) for name, field in _SIZES.items()}
    weights = sum(weight.numel() for weight in model.parameters())
    return {**{name: size for name, size in found.items() if size}, "weights": weights}


def _table(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """What there was and what is left, a line each."""
    head = f"{'student':<16}{'of':>14}{'left':>14}{'share':>9}"
    lines = [
        f"{name:<16}{total:>14,}{after[name]:>14,}{after[name] / total:>9.1%}"
        for name, total in before.items()
    ]
    return [head, *lines]
