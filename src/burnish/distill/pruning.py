"""Prune a model to the student's initial size: fewer layers, neurons, heads or tokens.

Kept layers are evenly spaced, including first and last. Kept neurons and heads are those that the
training rows use most, as the whole model reads them (Muralidharan et al. 2024, arXiv:2407.14679),
and so are tokens (models.pruning.vocabulary).
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
#: Number of rows to measure usage with.
_ROWS = 256
#: Neurons are kept in whole blocks of this size, which low-bit formats round together.
_BLOCK = 32
#: Reported sizes of a model → fields of its config.
_SIZES = {
    "layers": "num_hidden_layers",
    "neurons a layer": "intermediate_size",
    "attention heads": "num_attention_heads",
    "key-value heads": "num_key_value_heads",
    "tokens": "vocab_size",
}


def calibration_rows(recipe: Recipe) -> Sequence[Row]:
    """Return training rows to choose the kept parts with; none if texts don't decide.

    Up to 256 of them for the width, and all for the vocabulary. Raises BadRecipe if there are none.
    """
    settings = recipe.distill
    if not (settings.neurons or settings.heads or settings.vocab_size):
        return ()
    rows = load(recipe, answered=False).split.train if recipe.data.train else ()
    if not rows:
        raise BadRecipe(
            "There are no training rows to choose what the student keeps.",
            "Name a file with rows in data.train, or leave distill.neurons, distill.heads and "
            "distill.vocab_size out.",
        )
    return rows if settings.vocab_size else sample_rows(rows, _ROWS, recipe.evaluate.seed)


def tokenize_rows(rows: Sequence[Row], tokenizer: Any, writes: bool, max_tokens: int) -> Texts:
    """Return rows as at most `max_tokens` tokens: training conversations for a language model, the
    text to classify for an encoder."""
    if not writes:
        truncation = {"truncation": True, "max_length": max_tokens}
        return [tokenizer(user_text(row.prompt), **truncation)["input_ids"] for row in rows]
    return [
        encode_row(tokenizer, part, max_tokens).ids
        or encode_prompt(tokenizer, part.prompt, part.tools or ())[:max_tokens]
        for row in rows
        for part in split_as_served(tokenizer, row)
    ]


def prune(model: Any, tokenizer: Any, settings: Distill, texts: Texts) -> Sequence[int]:
    """Prune a model in place as the recipe says, and report the result; `texts` decide what is
    kept. Return the ids of the kept tokens, if the vocabulary is pruned.

    Raises BadRecipe for more than there is, and for unsupported models.
    """
    before = _sizes(model)
    pieces = select_pieces(tokenizer, texts, settings.vocab_size) if settings.vocab_size else []
    config = model.config.get_text_config()
    mlps = mlps_of(model) if settings.neurons else []
    attentions = attentions_of(model) if settings.heads else []
    sample = texts[:: math.ceil(len(texts) / _ROWS)] if texts else []
    used = measure_usage(model, sample, [*mlps, *attentions]) if mlps or attentions else []
    if settings.neurons:
        count = _round_to_blocks(settings.neurons, config.intermediate_size)
        keep_neurons(model, count, used[: len(mlps)])
    if settings.heads:
        keep_groups(model, settings.heads, used[len(mlps) :])
    if settings.layers:
        kept = prune_layers(model, settings.layers)
        say(f"Layers kept: {', '.join(str(index + 1) for index in kept)}")
    if pieces:
        keep_pieces(model, pieces)
    for line in _table(before, _sizes(model)):
        say(line)
    return pieces


def prune_layers(model: Any, count: int) -> list[int]:
    """Keep `count` layers of a model, in place; return which. Raises BadRecipe for too many."""
    total = model.config.num_hidden_layers
    if count > total:
        raise BadRecipe(
            f"The model has {total} layers; {count} can't be kept.", f"Set distill.layers={total}."
        )
    kept = evenly_spaced(count, total)
    keep_layers(model, kept)
    return kept


def _round_to_blocks(share: float, total: int) -> int:
    """Return that share of the neurons, in whole blocks if there is more than one."""
    blocks = max(round(share * total / _BLOCK), 1)
    return min(blocks * _BLOCK, total)


def _sizes(model: Any) -> dict[str, int]:
    config = model.config.get_text_config()
    sizes = {name: int(getattr(config, field, None) or 0) for name, field in _SIZES.items()}
    weights = sum(weight.numel() for weight in model.parameters())
    return {**{name: size for name, size in sizes.items() if size}, "weights": weights}


def _table(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Return the sizes before and after, a line each."""
    head = f"{'student':<16}{'of':>14}{'left':>14}{'share':>9}"
    lines = [
        f"{name:<16}{total:>14,}{after[name]:>14,}{after[name] / total:>9.1%}"
        for name, total in before.items()
    ]
    return [head, *lines]
