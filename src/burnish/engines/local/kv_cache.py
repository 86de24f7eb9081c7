"""Keys and values of a batch in buffers with spare room, and attention that doesn't copy them.

Profiled on the starter model behind a shared prompt of 650 tokens, a quarter of each pass went into
growing the library's cache by concatenation, and a seventh into repeating keys and values for the
query heads that share them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: Tokens of spare room when a buffer grows.
_SPARE_TOKENS = 64
ATTENTION = "burnish_grouped"


class GrowingLayer(DynamicLayer):
    """One layer's keys and values [rows, heads, tokens, dim]. What it begins with isn't written to.

    `keys` and `values` are views of the used part of a buffer.
    """

    keys: Any  # the library's type allows none, before the first tokens
    values: Any

    def __init__(self, begin: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None
        if begin is not None:
            self._set(*begin)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens [rows, heads, new, dim]; returns all keys and values."""
        if not self.is_initialized:
            self._set(key_states[:, :, :0], value_states[:, :, :0])
        done = self.get_seq_length()
        total = done + key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < total:
            self._buffers = (_grow_buffer(self.keys, total), _grow_buffer(self.values, total))
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, done:total] = new
        self.keys, self.values = (buffer[:, :, :total] for buffer in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens in use."""
        return int(self.keys.shape[2]) if self.is_initialized else 0

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.keys, self.values = self.keys[:, :, :length], self.values[:, :, :length]

    def keep_rows(self, rows: torch.Tensor, first: int) -> None:
        """Only these rows, without the `first` tokens."""
        self._set(self.keys[rows, :, first:], self.values[rows, :, first:])

    def append_rows(self, other: "GrowingLayer") -> None:
        """Another layer's rows below these, the shorter ones padded on the left."""
        width = max(self.get_seq_length(), other.get_seq_length())
        self._set(
            torch.cat([_pad_left(self.keys, width), _pad_left(other.keys, width)]),
            torch.cat([_pad_left(self.values, width), _pad_left(other.values, width)]),
        )

    def _set(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.keys, self.values, self._buffers = keys, values, None


class GrowingCache(DynamicCache):
    """A cache of growing layers: empty, or beginning with keys and values that are shared."""

    layers: list[GrowingLayer]  # type: ignore[assignment]

    def __init__(self, begin: Iterable[tuple[torch.Tensor, torch.Tensor]] = ()) -> None:
        super().__init__()
        self.layer_class_to_replicate = GrowingLayer
        self.layers = [GrowingLayer(pair) for pair in begin]

    @property
    def width(self) -> int:
        """Tokens a row, padding included."""
        return self.layers[0].get_seq_length() if self.layers else 0

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        for layer in self.layers:
            layer.truncate(length)

    def keep_rows(self, rows: torch.Tensor, first: int) -> None:
        """Only these rows, without the `first` tokens."""
        for layer in self.layers:
            layer.keep_rows(rows, first)

    def append_rows(self, other: "GrowingCache") -> None:
        """Another cache's rows below these, the shorter ones padded on the left."""
        for layer, more in zip(self.layers, other.layers, strict=True):
            layer.append_rows(more)


def _grow_buffer(old: torch.Tensor, total: int) -> torch.Tensor:
    rows, heads, done, dim = old.shape
    new = old.new_empty((rows, heads, total + _SPARE_TOKENS, dim))
    new[:, :, :done] = old
    return new


def _pad_left(part: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(part, (0, 0, width - part.shape[2], 0))


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """The library's attention, with the query heads that share keys side by side as more queries.

    query [rows, heads, queries, dim], key and value [rows, shared heads, tokens, dim], mask [rows,
    1, queries, tokens]; returns [rows, queries, heads, dim]. The numbers are the same; the keys and
    values of long prompts are not copied for every head.
    """
    rows, heads, queries, dim = query.shape
    shared = key.shape[1]
    together = heads // shared
    if attention_mask is None or together == 1 or attention_mask.shape[1] != 1:
        done = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return done[0], None
    stacked = query.reshape(rows, shared, together * queries, dim)
    mask = attention_mask[..., : key.shape[2]].repeat(1, 1, together, 1)
    output = torch.nn.functional.scaled_dot_product_attention(
        stacked, key, value, attn_mask=mask, scale=settings.get("scaling")
    )
    return output.reshape(rows, heads, queries, -1).transpose(1, 2).contiguous(), None


def sliding_window_size(config: Any) -> int | None:
    """How many tokens back the model's sliding layers see; None if it has none."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    size = getattr(text, "sliding_window", None)
    return int(size) if size else None


def make_tree_masks(
    config: Any, sees: torch.Tensor, distance: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """The mask of tokens that don't simply follow one another, as the model's layers take it.

    `sees` and `distance` (how many positions back) are [rows, queries, tokens].
    """
    size = sliding_window_size(config)
    full = _as_mask(config, sees)
    if size is None:
        return full
    sliding = _as_mask(config, sees & (distance < size))
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ["sliding_attention"])
    if kinds == {"sliding_attention"}:
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}


def _as_mask(config: Any, sees: torch.Tensor) -> torch.Tensor:
    """(rows, 1, queries, tokens): what is seen, as the model's attention takes it."""
    mask = sees[:, None]
    if config._attn_implementation != "eager":
        return mask
    # Eager attention adds its mask to the scores.
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -1e30)


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
