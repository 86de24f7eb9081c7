"""One model in memory with all its adapters, and which row of a pass sees which of them.

Where rows have different adapters, the base multiplies all of them at once and each adapter its own
rows, as Punica and S-LoRA do (Chen et al. 2023, arXiv:2310.18547; Sheng et al. 2023,
arXiv:2311.03285). PEFT's mixed batches give the same numbers, in twice the time of a pass
(docs/performance.md).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a pass by adapter: each part is an adapter's name, its first row and the one
    behind its last, in the rows that `order` picks; without `order`, in all."""

    order: torch.Tensor | None
    parts: Sequence[tuple[str, int, int | None]]


class Weights:
    """A model, and the adapters that were added to it, each under a key of its own.

    Adapters whose layers are all LoRA on linear layers, without more to it (no DoRA, no trained
    embeddings), may stand beside others in a pass; any other is active alone, by PEFT's means.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        #: Of the adapters, by the names and hashes of their files.
        self.tokenizers: dict[frozenset[tuple[str, str]], PreTrainedTokenizerBase] = {}
        self._rows: _Rows | None = None
        self._alone = set(getattr(model, "peft_config", ()))

    def add(self, folder: Path, dtype: torch.dtype) -> str:
        """Load an adapter's folder; returns its key. The first one makes this a PEFT model."""
        # Names of runs and folders may hold dots, which PEFT cannot have in a module's name.
        key = f"adapter{len(getattr(self.model, 'peft_config', {}))}"
        if hasattr(self.model, "peft_config"):
            self.model.load_adapter(str(folder), key, autocast_adapter_dtype=False)
        else:
            self.model = PeftModel.from_pretrained(
                self.model, str(folder), key, autocast_adapter_dtype=False
            )
        self.model = self.model.to(dtype).eval()
        if not _adds_products_only(self.model, key):
            self._alone.add(key)
        layers: Iterable[Any] = self.model.modules()
        for layer in layers:
            if _is_lora(layer) and "forward" not in vars(layer):
                layer.forward = MethodType(_by_rows(self, layer.forward), layer)
        return key

    def stands_beside(self, adapter: str | None) -> bool:
        """Whether rows of this adapter (None: the base) can be in a pass with others'."""
        return adapter not in self._alone

    @contextmanager
    def only(self, adapter: str | None) -> Iterator[None]:
        """All rows of the passes within see this adapter, or none."""
        if self.stands_beside(adapter):
            with self._seen(_Rows(None, [(adapter, 0, None)] if adapter else [])):
                yield
        else:
            if self.model.active_adapter != adapter:
                self.model.set_adapter(adapter)
            yield

    @contextmanager
    def beside(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Row i of the passes within sees `adapters[i]`; each must be one that `stands_beside`."""
        own = sorted((name, row) for row, name in enumerate(adapters) if name is not None)
        parts: list[tuple[str, int, int]] = []
        for place, (name, _) in enumerate(own):
            begin = parts.pop()[1] if parts and parts[-1][0] == name else place
            parts.append((name, begin, place + 1))
        order = torch.tensor([row for _, row in own], dtype=torch.long, device=self.model.device)
        with self._seen(_Rows(order, parts)):
            yield

    @contextmanager
    def _seen(self, rows: _Rows) -> Iterator[None]:
        """What `_by_rows` goes by; layers that don't must show no adapter."""
        before, self._rows = self._rows, rows
        try:
            with self.model.disable_adapter() if self._alone else nullcontext():
                yield
        finally:
            self._rows = before


def _by_rows(weights: Weights, alone: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The forward pass of a LoRA layer; `alone` is PEFT's, for passes with one adapter."""

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows = weights._rows
        if rows is None:
            return alone(x, *args, **kwargs)
        y: torch.Tensor = self.base_layer(x, *args, **kwargs)
        # An adapter may leave this layer alone.
        parts = [part for part in rows.parts if part[0] in self.lora_A]
        if not parts:
            return y
        own = x if rows.order is None else x[rows.order]
        added = y.new_zeros(len(own), *y.shape[1:])
        for name, begin, end in parts:
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            inner = own[begin:end].flatten(0, -2) @ a.T
            flat = added[begin:end].flatten(0, -2)
            torch.addmm(flat, inner, b.T, beta=0, alpha=self.scaling[name], out=flat)
        return y.add_(added) if rows.order is None else y.index_add_(0, rows.order, added)

    return forward


def _adds_products_only(model: Any, adapter: str) -> bool:
    """Whether all that an adapter does is to add products to outputs of linear layers."""
    for layer in model.modules():
        if isinstance(layer, AuxiliaryTrainingWrapper) and adapter in layer._adapters:
            return False
        own = isinstance(layer, BaseTunerLayer) and adapter in _adapters_of(layer)
        if own and not _adds_a_product(layer, adapter):
            return False
    return True


def _adds_a_product(layer: Any, adapter: str) -> bool:
    return (
        _is_lora(layer)
        and type(layer.base_layer) is torch.nn.Linear
        and adapter not in layer.lora_variant
        and not layer.lora_bias[adapter]
    )


def _is_lora(layer: Any) -> bool:
    return type(layer) is LoraLinear


def _adapters_of(layer: Any) -> set[str]:
    """The adapters that a layer has weights of."""
    return {name for held in layer.adapter_layer_names for name in getattr(layer, held)}
