"""Self-attention relations held to a teacher's (MiniLMv2, Wang et al. 2021, arXiv:2012.15828).

Queries, keys and values of one layer, as its projections give them (before rotation), are each
split into relation heads. In each head a token's relation is the softmax of its scaled products
with all tokens that it attends to; the loss is the Kullback-Leibler divergence of the student's
relation from the teacher's, averaged over heads and the tokens of a row, summed over the three
kinds. Widths and numbers of heads need not be equal.
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

#: A layer's names for its query, key and value projections.
_NAMES = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
)
#: The score of a masked token; infinity minus infinity would be NaN.
_MASKED = -1e9

#: Queries, keys and values of one layer, each (rows, tokens, width).
States = Sequence[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Projections:
    """The query, key and value projections of one layer; `causal` if its tokens attend only to
    earlier ones."""

    matrices: tuple[Any, Any, Any]
    causal: bool

    @property
    def widths(self) -> list[int]:
        """Of queries, keys and values."""
        return [int(matrix.out_features) for matrix in self.matrices]

    def capture(self) -> AbstractContextManager[list[torch.Tensor]]:
        """Collect the outputs of the projections during a pass."""
        return capture_outputs(self.matrices)


@dataclass(frozen=True, slots=True)
class RelationPair:
    """A student's last layer, the teacher's layer that it is matched with, and the weight."""

    student: Projections
    teacher: Projections
    heads: int
    weight: float


def relation_pair(
    student: Any, teacher: Any, settings: AttentionRelations, name: str
) -> RelationPair:
    """Find the layers of two models that are compared; `name` is the teacher's.

    Raises BadRecipe for a layer that the teacher doesn't have, projections with unknown names,
    models that mask differently, and heads that don't divide the widths.
    """
    layers = layers_of(teacher)
    number = settings.layer or len(layers)
    if number > len(layers):
        raise BadRecipe(
            f"{name} has {len(layers)} layers; there is no layer {number}.",
            f"Set train.objective.attention.layer to {len(layers)} at most.",
        )
    student_layer = _find_projections(layers_of(student)[-1], "the student")
    teacher_layer = _find_projections(layers[number - 1], name)
    if student_layer.causal != teacher_layer.causal:
        raise BadRecipe(
            f"The student and {name} mask attention differently: one is causal, the other "
            "bidirectional.",
            "Name a teacher of the student's kind, or set train.objective.attention.weight=0.",
        )
    common = math.gcd(*student_layer.widths, *teacher_layer.widths)
    divisors = [number for number in range(1, common + 1) if common % number == 0]
    # One wide head would relate each token to itself and to nothing else.
    heads = settings.heads or max(n for n in divisors if n <= _key_heads(teacher))
    if heads not in divisors:
        raise BadRecipe(
            f"{heads} relation heads don't divide the widths of queries, keys and values: the "
            f"student's are {student_layer.widths}, those of {name} {teacher_layer.widths}.",
            f"Set train.objective.attention.heads to one of {', '.join(map(str, divisors))}.",
        )
    return RelationPair(student_layer, teacher_layer, heads, settings.weight)


def packed_divergence(
    pair: RelationPair, student: States, teacher: States, batch: PackedBatch
) -> torch.Tensor:
    """Return (rows,) the divergence of the relations in each row of a packed batch.

    A row is what it would be alone: its tokens after the shared prefix attend to the prefix and to
    the row up to themselves. The prefix's own relations are computed once and count in every row.
    """
    layout = batch.layout
    answers = all_answers(batch.examples)
    lengths = torch.tensor([len(answer.ids) for answer in answers], device=batch.ids.device)
    positions = torch.arange(layout.gather.shape[1], device=lengths.device)
    is_real = positions < lengths[:, None] - layout.prefix
    mask = (make_causal_bias(len(positions), layout.prefix, lengths.device) == 0)[:, None]
    prefix_mask = torch.ones(
        layout.prefix, layout.prefix, dtype=torch.bool, device=mask.device
    ).tril()

    def split(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        prefix = states[:, : layout.prefix]
        rows = states[0].index_select(0, layout.gather.flatten())
        queries = rows.view(*layout.gather.shape, -1)
        keys = torch.cat([prefix.expand(len(queries), -1, -1), queries], 1)
        return prefix, queries, keys

    total = torch.zeros(len(lengths), device=lengths.device)
    for student_states, teacher_states in zip(student, teacher, strict=True):
        student_prefix, *student_rows = split(student_states)
        teacher_prefix, *teacher_rows = split(teacher_states)
        divergence = _relation_divergence(student_rows, teacher_rows, pair.heads, mask)
        total = total + (divergence * is_real).sum(1)
        if layout.prefix:
            prefixes = ([student_prefix] * 2, [teacher_prefix] * 2)
            total = total + _relation_divergence(*prefixes, pair.heads, prefix_mask).sum()
    return total / lengths


def padded_divergence(
    pair: RelationPair, student: States, teacher: States, mask: torch.Tensor
) -> torch.Tensor:
    """Return (rows,) the same for rows padded on the right; mask (rows, tokens)."""
    is_real = mask.bool()
    visible = is_real[:, None, None]
    if pair.student.causal:
        causal = torch.ones(2 * mask.shape[1:], dtype=torch.bool, device=mask.device).tril()
        visible = visible & causal
    parts = [
        _relation_divergence([one, one], [other, other], pair.heads, visible)
        for one, other in zip(student, teacher, strict=True)
    ]
    return (torch.stack(parts).sum(0) * is_real).sum(1) / is_real.sum(1)


def _relation_divergence(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    heads: int,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Return (rows, tokens) the KL divergence of the relations of one kind, averaged over heads.

    `student` and `teacher` are (rows, tokens, width) and (rows, keys, width). The scores are
    recomputed for the gradient: kept, they would be the largest thing in memory.
    """

    def compare(*states: torch.Tensor) -> torch.Tensor:
        student_logs = _log_relations(states[0], states[1], heads, mask)
        teacher_logs = _log_relations(states[2], states[3], heads, mask)
        return (teacher_logs.exp() * (teacher_logs - student_logs)).sum(-1).mean(1)

    divergence: torch.Tensor = checkpoint(
        compare, *student, *teacher, use_reentrant=False, preserve_rng_state=False
    )
    return divergence


def _log_relations(
    queries: torch.Tensor, keys: torch.Tensor, heads: int, mask: torch.Tensor
) -> torch.Tensor:
    """Return (rows, heads, tokens, keys) the logarithms of the relations, float32."""
    split_queries, split_keys = (
        states.float().unflatten(-1, (heads, -1)).transpose(1, 2) for states in (queries, keys)
    )
    scores = split_queries @ split_keys.transpose(2, 3) * split_queries.shape[-1] ** -0.5
    relations: torch.Tensor = scores.masked_fill(~mask, _MASKED).log_softmax(-1)
    return relations


def _find_projections(layer: torch.nn.Module, whose: str) -> Projections:
    for module in layer.modules():
        for names in _NAMES:
            q, k, v = (getattr(module, name, None) for name in names)
            if all(isinstance(matrix, torch.nn.Module) for matrix in (q, k, v)):
                return Projections((q, k, v), bool(getattr(module, "is_causal", False)))
    raise BadRecipe(
        f"burnish doesn't know the names of the query, key and value projections of {whose}.",
        "Set train.objective.attention.weight=0.",
    )


def _key_heads(model: Any) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
