"""Attention of a flat sequence: rows see the shared prefix and themselves, never one another.

Registered with `transformers` under the name `ATTENTION`; the loop hands the `Layout` of each
micro-batch through the model's keyword arguments.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from burnish.train.flat import Layout

ATTENTION = "burnish_flat"

#: Scores that exist at once, in elements: few enough to stay in the cache, and a bound on memory.
_SCORES = 1 << 21


class GroupedAttention(torch.autograd.Function):
    """Softmax attention as batched matrix products; scores are computed again for the gradient.

    On CPUs this is several times faster than torch's flash kernel, whose backward pass makes no use
    of the bfloat16 units, and as frugal: what it keeps are its inputs and its output (the idea of
    FlashAttention, Dao et al. 2022, arXiv:2205.14135, with whole rows as tiles).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """query (rows, key heads, groups, longest, dim), key and value (rows, key heads, seen,
        dim), bias (1, longest, seen) of 0 and -inf → the shape of query."""
        found = torch.empty_like(query)
        for part in _parts(query, key):
            chances = _chances(query[part], key[part], bias, scaling)
            shape = chances.shape
            found[part] = (chances.flatten(2, 3) @ value[part]).view(*shape[:-1], -1)
        ctx.save_for_backward(query, key, value, bias, found)
        ctx.scaling = scaling
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of query, key and value."""
        query, key, value, bias, found = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
        for part in _parts(query, key):
            chances = _chances(query[part], key[part], bias, ctx.scaling).flatten(2, 3)
            outward = grad[part].flatten(2, 3)
            torch.matmul(chances.transpose(2, 3), outward, out=grads[2][part])
            shared = (outward * found[part].flatten(2, 3)).sum(-1, keepdim=True)
            scores = (outward @ value[part].transpose(2, 3)).sub_(shared).mul_(chances)
            scores.mul_(ctx.scaling)
            grads[0][part] = (scores @ key[part]).view_as(query[part])
            torch.matmul(scores.transpose(2, 3), query[part].flatten(2, 3), out=grads[1][part])
        return grads[0], grads[1], grads[2], None, None


def _parts(query: torch.Tensor, key: torch.Tensor) -> list[slice]:
    """Slices of rows whose scores may exist at once."""
    a_row = query.shape[1] * query.shape[2] * query.shape[3] * key.shape[2]
    count = max(_SCORES // a_row, 1)
    return [slice(begin, begin + count) for begin in range(0, query.shape[0], count)]


def _chances(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor, scaling: float
) -> torch.Tensor:
    """(rows, key heads, groups, longest, seen): how much each token looks at each."""
    scores = (query * scaling).flatten(2, 3) @ key.transpose(2, 3)
    scores = scores.view(*query.shape[:4], key.shape[2])
    return torch.softmax(scores.add_(bias), dim=-1)


def flat_attention(
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
    layouts: Layout | tuple[Layout, ...] = settings["layout"]
    scaling = settings.get("scaling") or query.shape[-1] ** -0.5
    if isinstance(layouts, Layout):
        return _attended(query, key, value, layouts, scaling), None
    lengths = [layout.tokens for layout in layouts]
    split = (part.split(lengths, 2) for part in (query, key, value))
    found = [_attended(q, k, v, own, scaling) for q, k, v, own in zip(*split, layouts, strict=True)]
    return torch.cat(found, 1), None


def _attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float,
) -> torch.Tensor:
    attend = _ATTEND.get(query.device.type, _attend_fused)
    found = attend(
        _rows(query[0], layout), _with_prefix(key[0], layout), _with_prefix(value[0], layout),
        layout.bias.to(query.dtype), scaling,
    )  # fmt: skip
    flat = found.flatten(1, -3).transpose(1, 2).flatten(0, 1).index_select(0, layout.scatter)
    if layout.prefix:
        first = [part[:, :, : layout.prefix] for part in (query, key, value)]
        head = scaled_dot_product_attention(
            first[0], first[1], first[2], is_causal=True, scale=scaling, enable_gqa=True
        )
        flat = torch.cat([head[0].transpose(0, 1), flat])
    return flat[None]


def _attend_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    grouped = query.unflatten(1, (key.shape[1], -1))
    found: torch.Tensor = GroupedAttention.apply(grouped, key, value, bias, scaling)
    return found.flatten(1, 2)


def _attend_fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    return scaled_dot_product_attention(
        query, key, value, attn_mask=bias[:, None], scale=scaling, enable_gqa=True
    )


#: Device → attention of padded rows; every other device has torch's fused kernels.
_ATTEND = {"cpu": _attend_products}


def _rows(part: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(heads, tokens, dim) → (rows, heads, longest, dim)."""
    chosen = part.index_select(1, layout.gather.flatten())
    shape = (part.shape[0], *layout.gather.shape, part.shape[2])
    return chosen.view(shape).transpose(0, 1)


def _with_prefix(part: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(key heads, tokens, dim) → (rows, key heads, prefix + longest, dim)."""
    rows = _rows(part, layout)
    if not layout.prefix:
        return rows.contiguous()
    before = part[None, :, : layout.prefix].expand(len(rows), -1, -1, -1)
    return torch.cat([before, rows], 2)


AttentionInterface.register(ATTENTION, flat_attention)
