"""Self-attention relations held to a teacher's (MiniLMv2, Wang et al. 2021, arXiv:2012.15828).

Queries, keys and values of one layer, as its matrices give them (before rotation), are each cut
into relation heads. In each head a token's relation is the softmax of its scaled products with all
tokens that it sees; the loss is the Kullback-Leibler divergence of the student's relation from the
teacher's, the mean over heads and the tokens of a row, the sum of the three kinds. Nothing of it
asks for equal widths or equal numbers of heads.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from burnish.core.errors import BadRecipe
from burnish.core.recipe.objectives import AttentionRelations
from burnish.models.pruning.depth import capture_outputs, layers_of
from burnish.train.batching.examples import all_answers
from burnish.train.batching.packed import PackedBatch, make_causal_bias

#: What a layer calls the matrices that make queries, keys and values.
_NAMES = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
)
#: The score of a token that isn't seen; infinity less infinity would be no number.
_NEVER = -1e9

#: Queries, keys and values of one layer, each (rows, tokens, width).
States = Sequence[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Projections:
    """The matrices of one layer that make queries, keys and values; `causal` if its tokens see
    only what stands before them."""

    matrices: tuple[Any, Any, Any]
    causal: bool

    @property
    def widths(self) -> list[int]:
        """Of queries, keys and values."""
        return [int(matrix.out_features) for matrix in self.matrices]

    def capture(self) -> AbstractContextManager[list[torch.Tensor]]:
        """What the matrices give, as a pass goes on."""
        return capture_outputs(self.matrices)


@dataclass(frozen=True, slots=True)
class RelationPair:
    """A student's last layer, the teacher's layer that it is held to, and how strongly."""

    student: Projections
    teacher: Projections
    heads: int
    weight: float


def relation_pair(
    student: Any, teacher: Any, settings: AttentionRelations, name: str
) -> RelationPair:
    """What is compared of two models; `name` is the teacher's.

    Raises BadRecipe for a layer that isn't there, matrices that burnish doesn't know, models that
    see differently, and heads that don't divide the widths.
    """
    layers = layers_of(teacher)
    number = settings.layer or len(layers)
    if number > len(layers):
        raise BadRecipe(
            f"{name} has {len(layers)} layers; there is no layer {number}.",
            f"Set train.objective.attention.layer to {len(layers)} at most.",
        )
    ours = _find_projections(layers_of(student)[-1], "the student")
    theirs = _find_projections(layers[number - 1], name)
    if ours.causal != theirs.causal:
        raise BadRecipe(
            f"The student and {name} don't see the same: one reads backwards only, the other both "
            "ways.",
            "Name a teacher of the student's kind, or set train.objective.attention.weight=0.",
        )
    common = math.gcd(*ours.widths, *theirs.widths)
    fitting = [some for some in range(1, common + 1) if common % some == 0]
    # One wide part would relate each token to itself and to nothing else.
    heads = settings.heads or max(some for some in fitting if some <= _key_heads(teacher))
    if heads not in fitting:
        raise BadRecipe(
            f"{heads} relation heads don't divide the widths of queries, keys and values: the "
            f"student's are {ours.widths}, those of {name} {theirs.widths}.",
            f"Set train.objective.attention.heads to one of {', '.join(map(str, fitting))}.",
        )
    return RelationPair(ours, theirs, heads, settings.weight)


def packed_divergence(
    pair: RelationPair, ours: States, theirs: States, batch: PackedBatch
) -> torch.Tensor:
    """(rows,): how far the relations of each row of a flat batch are apart.

    A row is what it would be alone: its tokens behind the shared prefix see the prefix and the row
    up to themselves. The prefix's own relations are computed once and count in every row.
    """
    layout = batch.layout
    answers = all_answers(batch.examples)
    lengths = torch.tensor([len(answer.ids) for answer in answers], device=batch.ids.device)
    places = torch.arange(layout.gather.shape[1], device=lengths.device)
    own = places < lengths[:, None] - layout.prefix
    seen = (make_causal_bias(len(places), layout.prefix, lengths.device) == 0)[:, None]
    before = torch.ones(layout.prefix, layout.prefix, dtype=torch.bool, device=seen.device).tril()

    def cut(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first = states[:, : layout.prefix]
        rows = states[0].index_select(0, layout.gather.flatten())
        queries = rows.view(*layout.gather.shape, -1)
        keys = torch.cat([first.expand(len(queries), -1, -1), queries], 1)
        return first, queries, keys

    total = torch.zeros(len(lengths), device=lengths.device)
    for mine, yours in zip(ours, theirs, strict=True):
        (first, *rows), (their_first, *their_rows) = cut(mine), cut(yours)
        total = total + (_relation_divergence(rows, their_rows, pair.heads, seen) * own).sum(1)
        if layout.prefix:
            prefixes = ([first, first], [their_first, their_first])
            total = total + _relation_divergence(*prefixes, pair.heads, before).sum()
    return total / lengths


def padded_divergence(
    pair: RelationPair, ours: States, theirs: States, mask: torch.Tensor
) -> torch.Tensor:
    """(rows,): the same of rows side by side, padded behind their ends; mask (rows, tokens)."""
    real = mask.bool()
    seen = real[:, None, None]
    if pair.student.causal:
        seen = seen & torch.ones(2 * mask.shape[1:], dtype=torch.bool, device=mask.device).tril()
    pairs = zip(ours, theirs, strict=True)
    parts = [
        _relation_divergence([mine, mine], [yours, yours], pair.heads, seen)
        for mine, yours in pairs
    ]
    return (torch.stack(parts).sum(0) * real).sum(1) / real.sum(1)


def _relation_divergence(
    ours: Sequence[torch.Tensor],
    theirs: Sequence[torch.Tensor],
    heads: int,
    seen: torch.Tensor,
) -> torch.Tensor:
    """(rows, tokens): KL divergence of the relations of one kind, the mean over heads.

    `ours` and `theirs` are (rows, tokens, width) and (rows, all that is seen, width). The scores
    are computed again for the gradient: kept, they would be the largest thing in memory.
    """

    def compare(*states: torch.Tensor) -> torch.Tensor:
        student = _log_relations(states[0], states[1], heads, seen)
        teacher = _log_relations(states[2], states[3], heads, seen)
        return (teacher.exp() * (teacher - student)).sum(-1).mean(1)

    found: torch.Tensor = checkpoint(
        compare, *ours, *theirs, use_reentrant=False, preserve_rng_state=False
    )
    return found


def _log_relations(
    queries: torch.Tensor, keys: torch.Tensor, heads: int, seen: torch.Tensor
) -> torch.Tensor:
    """(rows, heads, tokens, all): logarithms of the relations, float32."""
    rows, all_ = (
        states.float().unflatten(-1, (heads, -1)).transpose(1, 2) for states in (queries, keys)
    )
    scores = rows @ all_.transpose(2, 3) * rows.shape[-1] ** -0.5
    found: torch.Tensor = scores.masked_fill(~seen, _NEVER).log_softmax(-1)
    return found


def _find_projections(layer: torch.nn.Module, whose: str) -> Projections:
    for module in layer.modules():
        for names in _NAMES:
            q, k, v = (getattr(module, name, None) for name in names)
            if all(isinstance(matrix, torch.nn.Module) for matrix in (q, k, v)):
                return Projections((q, k, v), bool(getattr(module, "is_causal", False)))
    raise BadRecipe(
        f"burnish doesn't know the matrices of queries, keys and values of {whose}.",
        "Set train.objective.attention.weight=0.",
    )


def _key_heads(model: Any) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
