"""Attention of a flat sequence: rows see the shared prefix and themselves, never one another.

Registered with `transformers` under the name `ATTENTION`; the loop hands the `Layout` of each
micro-batch through the model's keyword arguments.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from burnish.train.batching.packed import PackedLayout, PackedPart

ATTENTION = "burnish_flat"

#: Scores that exist at once, in elements: few enough to stay in the cache, and a bound on memory.
_SCORES = 1 << 21
#: About how many tokens of a row look back in one product; nobody in it looks behind its last one.
_TILE = 64


class GroupedAttention(torch.autograd.Function):
    """Causal softmax attention as batched matrix products; scores are computed again for the
    gradient.

    On CPUs this is faster than torch's flash kernel, whose backward pass makes no use of the
    bfloat16 units, and as frugal: what it keeps are its inputs (the idea of FlashAttention, Dao et
    al. 2022, arXiv:2205.14135, with tiles of queries and all that they look at).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """query (rows, key heads, groups, longest, dim), key and value (rows, key heads, seen,
        dim) → the shape of query. The queries' tokens are the last `longest` of those seen."""
        found = torch.empty_like(query)
        for rows, own, seen in _tiles(query, key):
            asked = (query[rows, ..., own, :] * scaling).flatten(2, 3)
            chances = _attention_probabilities(asked, key[rows, :, seen], own)
            tile = (chances @ value[rows, :, seen]).view_as(found[rows, ..., own, :])
            found[rows, ..., own, :] = tile
        ctx.save_for_backward(query, key, value)
        ctx.scaling = scaling
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of query, key and value; the latter two are summed in float32."""
        query, key, value = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        exact = torch.promote_types(key.dtype, torch.float32)
        grad_key, grad_value = (torch.zeros_like(part, dtype=exact) for part in (key, value))
        for rows, own, seen in _tiles(query, key):
            asked = (query[rows, ..., own, :] * ctx.scaling).flatten(2, 3)
            chances = _attention_probabilities(asked, key[rows, :, seen], own)
            outward = grad[rows, ..., own, :].flatten(2, 3)
            grad_value[rows, :, seen] += chances.transpose(2, 3) @ outward
            scores = torch.ops.aten._softmax_backward_data(
                outward @ value[rows, :, seen].transpose(2, 3), chances, -1, chances.dtype
            )
            inward = (scores @ key[rows, :, seen]).mul_(ctx.scaling)
            grad_query[rows, ..., own, :] = inward.view_as(grad_query[rows, ..., own, :])
            grad_key[rows, :, seen] += scores.transpose(2, 3) @ asked
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None


def _tiles(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, queries and keys whose scores exist at once: every query once, with all that it
    sees."""
    count, *heads, longest, _ = query.shape
    before = key.shape[2] - longest
    size = -(-longest // max(round(longest / _TILE), 1))
    for begin in range(0, longest, size):
        end = min(begin + size, longest)
        a_row = math.prod(heads) * (end - begin) * (before + end)
        some = max(_SCORES // a_row, 1)
        for first in range(0, count, some):
            yield slice(first, first + some), slice(begin, end), slice(before + end)


def _attention_probabilities(asked: torch.Tensor, key: torch.Tensor, own: slice) -> torch.Tensor:
    """(rows, key heads, groups × tile, seen): how much each token looks at each; those of the tile
    are the last that are seen."""
    size = own.stop - own.start
    scores = asked @ key.transpose(2, 3)
    behind = torch.full((size, size), -torch.inf, dtype=scores.dtype).triu_(1)
    scores.unflatten(2, (-1, size))[..., -size:].add_(behind)
    return torch.softmax(scores, dim=-1)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a flat sequence, or of several behind one another, each by itself; the signature
    is that of `transformers`' interface.

    query (1, heads, tokens, dim), key and value (1, key heads, tokens, dim) → (1, tokens, heads,
    dim). `settings` holds the `layout` or their tuple, and `scaling` where it isn't 1 / sqrt(dim).
    """
    layouts: PackedLayout | tuple[PackedLayout, ...] = settings["layout"]
    scaling = settings.get("scaling") or query.shape[-1] ** -0.5
    if isinstance(layouts, PackedLayout):
        return _attend(query, key, value, layouts, scaling), None
    lengths = [layout.tokens for layout in layouts]
    split = (part.split(lengths, 2) for part in (query, key, value))
    found = [_attend(q, k, v, own, scaling) for q, k, v, own in zip(*split, layouts, strict=True)]
    return torch.cat(found, 1), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scaling: float,
) -> torch.Tensor:
    attend = _ATTEND.get(query.device.type, _attend_fused)
    found = [
        attend(
            _gather_rows(query[0], part.row_positions),
            _gather_visible(key[0], part),
            _gather_visible(value[0], part),
            part,
            scaling,
        )
        .transpose(1, 2)
        .flatten(0, 1)
        for part in layout.parts
    ]
    flat = torch.cat(found).index_select(0, layout.scatter)
    if layout.prefix:
        first = [part[:, :, : layout.prefix] for part in (query, key, value)]
        head = attend(first[0], first[1], first[2], None, scaling)
        flat = torch.cat([head[0].transpose(0, 1), flat])
    return flat[None]


def _attend_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _: PackedPart | None,
    scaling: float,
) -> torch.Tensor:
    grouped = query.unflatten(1, (key.shape[1], -1))
    found: torch.Tensor = GroupedAttention.apply(grouped, key, value, scaling)
    return found.flatten(1, 2)


def _attend_fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    part: PackedPart | None,
    scaling: float,
) -> torch.Tensor:
    mask = None if part is None else part.bias[:, None].to(query.dtype)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )


#: Device → causal attention of (rows, heads, longest, dim), whose keys may begin earlier; every
#: other device has torch's fused kernels, which are told by the part (None: keys begin together).
_ATTEND = {"cpu": _attend_products}


def _gather_rows(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(heads, tokens, dim) at (rows, longest) → (rows, heads, longest, dim)."""
    chosen = states.index_select(1, places.flatten())
    return chosen.view(states.shape[0], *places.shape, states.shape[2]).transpose(0, 1)


def _gather_visible(states: torch.Tensor, part: PackedPart) -> torch.Tensor:
    """(key heads, tokens, dim) → (rows, key heads, prefix + known + longest, dim)."""
    rows = _gather_rows(states, part.visible_positions)
    if not part.prefix:
        return rows.contiguous()
    before = states[None, :, : part.prefix].expand(len(rows), -1, -1, -1)
    return torch.cat([before, rows], 2)


# Tiles are counted in Python: compiled, every length of a batch would be another program.
AttentionInterface.register(ATTENTION, torch.compiler.disable(packed_attention))
