"""Attention of a flat sequence: rows see the shared prefix and themselves, never one another.

Registered with `transformers` under the name `ATTENTION`; the loop hands the `Layout` of each
micro-batch through the model's keyword arguments.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from burnish.train.batching.packed import PackedLayout, PackedPart, make_causal_bias

ATTENTION = "burnish_flat"

#: Scores that exist at once, in elements: few enough to stay in the cache, and a bound on memory.
_SCORES = 1 << 21
#: Arguments of `transformers`' attention that change the result and aren't known here: learnt sinks
#: (GPT-OSS) and biases by distance.
_UNKNOWN = ("s_aux", "position_bias", "alibi", "attention_chunk_size")
#: About how many tokens of a row look back in one product; nobody in it looks behind its last one.
_TILE = 64


@dataclass(frozen=True, slots=True)
class AttentionScores:
    """How a layer scores the tokens it attends to.

    A product is multiplied by `scaling` and, with `softcap`, bounded as `c tanh(s / c)` (Gemma 2,
    2024, arXiv:2408.00118). With `window`, a token sees itself and the `window - 1` before it.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None

    def limits(self, seen: int) -> bool:
        """True if the window hides something from the last of `seen` tokens."""
        return self.window is not None and seen > self.window


class GroupedAttention(torch.autograd.Function):
    """Causal softmax attention as batched matrix products; scores are computed again for the
    gradient.

    On CPUs this is faster than torch's flash kernel, whose backward pass makes no use of the
    bfloat16 units, and as frugal: what it keeps are its inputs (the idea of FlashAttention, Dao et
    al. 2022, arXiv:2205.14135, with tiles of queries and all that they look at).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scores: AttentionScores,
    ) -> torch.Tensor:
        """query (rows, key heads, groups, longest, dim), key and value (rows, key heads, seen,
        dim) → the shape of query. The queries' tokens are the last `longest` of those seen."""
        # Laid out as the queries, so that what follows needs no copy.
        output = torch.empty_like(query)
        if value.shape[-1] != query.shape[-1]:
            output = query.new_empty(*query.shape[:-1], value.shape[-1])
        for rows, own, seen in _tiles(query, key, scores.window):
            scaled = (query[rows, ..., own, :] * scores.scaling).flatten(2, 3)
            chances, _ = _attention_probabilities(scaled, key[rows, :, seen], own, scores)
            tile = chances @ value[rows, :, seen]
            output[rows, ..., own, :] = tile.view_as(output[rows, ..., own, :])
        ctx.save_for_backward(query, key, value)
        ctx.scores = scores
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of query, key and value; the latter two are summed in float32."""
        query, key, value = ctx.saved_tensors
        scores: AttentionScores = ctx.scores
        grad_query = torch.empty_like(query)
        exact = torch.promote_types(key.dtype, torch.float32)
        grad_key, grad_value = (torch.zeros_like(part, dtype=exact) for part in (key, value))
        for rows, own, seen in _tiles(query, key, scores.window):
            scaled = (query[rows, ..., own, :] * scores.scaling).flatten(2, 3)
            chances, slope = _attention_probabilities(scaled, key[rows, :, seen], own, scores)
            outward = grad[rows, ..., own, :].flatten(2, 3)
            grad_value[rows, :, seen] += chances.transpose(2, 3) @ outward
            back = torch.ops.aten._softmax_backward_data(
                outward @ value[rows, :, seen].transpose(2, 3), chances, -1, chances.dtype
            )
            if slope is not None:
                back = back * slope
            inward = (back @ key[rows, :, seen]).mul_(scores.scaling)
            grad_query[rows, ..., own, :] = inward.view_as(grad_query[rows, ..., own, :])
            grad_key[rows, :, seen] += back.transpose(2, 3) @ scaled
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None


def _tiles(
    query: torch.Tensor, key: torch.Tensor, window: int | None
) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, queries and keys whose scores exist at once: every query once, with all that it
    sees."""
    count, *heads, longest, _ = query.shape
    before = key.shape[2] - longest
    size = -(-longest // max(round(longest / _TILE), 1))
    for begin in range(0, longest, size):
        end = min(begin + size, longest)
        first_seen = max(before + begin + 1 - window, 0) if window else 0
        a_row = math.prod(heads) * (end - begin) * (before + end - first_seen)
        some = max(_SCORES // a_row, 1)
        for first in range(0, count, some):
            yield slice(first, first + some), slice(begin, end), slice(first_seen, before + end)


def _attention_probabilities(
    scaled: torch.Tensor, key: torch.Tensor, own: slice, scores: AttentionScores
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Probabilities (rows, key heads, groups × tile, seen) of attending to each token, and the
    derivative of the capped scores, None without a cap; the tile's tokens are the last seen."""
    size, seen = own.stop - own.start, key.shape[2]
    products = scaled @ key.transpose(2, 3)
    slope = None
    if scores.softcap is not None:
        bounded = torch.tanh(products / scores.softcap)
        products, slope = bounded * scores.softcap, 1 - bounded.square()
    tiles = products.unflatten(2, (-1, size))
    behind = torch.full((size, size), -torch.inf, dtype=products.dtype, device=key.device).triu_(1)
    tiles[..., -size:].add_(behind)
    if scores.limits(seen):
        tiles.masked_fill_(_is_too_far(size, seen, scores.window, key.device), -torch.inf)
    return torch.softmax(products, dim=-1), slope


def _is_too_far(size: int, seen: int, window: int | None, device: torch.device) -> torch.Tensor:
    """(size, seen): True where one of the last `size` tokens seen is no longer in the window."""
    assert window is not None
    places = torch.arange(seen, device=device)
    return places[-size:, None] - places[None] >= window


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
    dim). `settings` holds the `layout` or their tuple, `scaling` where it isn't 1 / sqrt(dim), and
    `sliding_window` and `softcap` of layers that have them. Raises NotImplementedError for what a
    layer adds to its scores besides.
    """
    if added := [name for name in _UNKNOWN if settings.get(name) is not None]:
        raise NotImplementedError(f"packed attention has no {', '.join(added)}")
    layouts: PackedLayout | tuple[PackedLayout, ...] = settings["layout"]
    scores = AttentionScores(
        settings.get("scaling") or query.shape[-1] ** -0.5,
        settings.get("sliding_window"),
        settings.get("softcap"),
    )
    if isinstance(layouts, PackedLayout):
        return _attend(query, key, value, layouts, scores), None
    lengths = [layout.tokens for layout in layouts]
    split = (part.split(lengths, 2) for part in (query, key, value))
    parts = [_attend(q, k, v, own, scores) for q, k, v, own in zip(*split, layouts, strict=True)]
    return torch.cat(parts, 1), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scores: AttentionScores,
) -> torch.Tensor:
    attend = _ATTEND.get(query.device.type, _attend_fused)
    if scores.softcap is not None:
        attend = _attend_products
    parts = [
        attend(
            _gather_rows(query[0], part.row_positions),
            _gather_visible(key[0], part),
            _gather_visible(value[0], part),
            part,
            scores,
        )
        .transpose(1, 2)
        .flatten(0, 1)
        for part in layout.parts
    ]
    flat = torch.cat(parts).index_select(0, layout.scatter)
    if layout.prefix:
        first = [part[:, :, : layout.prefix] for part in (query, key, value)]
        head = attend(first[0], first[1], first[2], None, scores)
        flat = torch.cat([head[0].transpose(0, 1), flat])
    return flat[None]


def _attend_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _: PackedPart | None,
    scores: AttentionScores,
) -> torch.Tensor:
    grouped = query.unflatten(1, (key.shape[1], -1))
    output: torch.Tensor = GroupedAttention.apply(grouped, key, value, scores)
    return output.flatten(1, 2)


def _attend_fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    part: PackedPart | None,
    scores: AttentionScores,
) -> torch.Tensor:
    longest, seen = query.shape[2], key.shape[2]
    bias = None if part is None else part.bias
    if scores.limits(seen):
        bias = make_causal_bias(longest, seen - longest, key.device) if bias is None else bias
        bias = bias.masked_fill(_is_too_far(longest, seen, scores.window, key.device), -torch.inf)
    mask = None if bias is None else bias[:, None].to(query.dtype)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scores.scaling,
        enable_gqa=True,
    )  # fmt: skip


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
