"""One model in memory with all its adapters, and which row of a pass sees which of them.

Where rows have different adapters, the base multiplies all of them at once and each adapter its own
rows, as Punica and S-LoRA do (Chen et al. 2023, arXiv:2310.18547; Sheng et al. 2023,
arXiv:2311.03285). PEFT's mixed batches give the same numbers, in up to twice the time of a pass
(docs/benchmarks/serving.md).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from burnish.engines.local.path import DecodingPath

#: Fields of an adapter that may be other than PEFT's defaults in one that only adds products.
_PLAIN_LORA_FIELDS = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern",
    "use_rslora", "init_lora_weights", "layers_to_transform", "layers_pattern", "exclude_modules",
    "task_type", "inference_mode", "base_model_name_or_path", "revision", "peft_version",
    "auto_mapping", "runtime_config",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _LoraProduct:
    """What an adapter adds to a linear layer's output: `scaling x A' B'`; a (rank, in), b (out,
    rank)."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True, slots=True)
class _AdapterRows:
    """The rows of a pass by adapter: each part is an adapter's name, its first row and the one
    behind its last, in the rows that `order` picks; without `order`, in all."""

    order: torch.Tensor | None
    parts: Sequence[tuple[str, int, int | None]]


class MultiLoraModel:
    """A model, and the adapters that were added to it, each under a key of its own.

    Adapters that only add products to linear layers (LoRA without DoRA, trained embeddings or the
    like) are held here, and may stand beside others in a pass. Any other is PEFT's, which makes
    this a PEFT model, and is active alone. PEFT could hold them all, but takes longer for each one
    that is there already: minutes for sixty.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        #: Of the adapters, by the names and hashes of their files.
        self.tokenizers: dict[frozenset[tuple[str, str]], PreTrainedTokenizerBase] = {}
        #: How it answers, once that was proven (engines.local.path).
        self.path: DecodingPath | None = None
        self._rows: _AdapterRows | None = None
        self._alone = set(getattr(model, "peft_config", ()))
        self._products: dict[str, dict[torch.nn.Module, _LoraProduct]] = {}

    def add(self, folder: Path, dtype: torch.dtype) -> str:
        """Load a LoRA adapter's folder; returns its key."""
        # Names of runs and folders may hold dots, which PEFT cannot have in a module's name.
        key = f"adapter{len(self._alone) + len(self._products)}"
        if products := _load_products(self.model, folder, dtype):
            for layer in products:
                if "forward" not in vars(layer):
                    vars(layer)["forward"] = _forward_by_rows(self, layer)
            self._products[key] = products
            return key
        if hasattr(self.model, "peft_config"):
            self.model.load_adapter(str(folder), key, autocast_adapter_dtype=False)
        else:
            self.model = PeftModel.from_pretrained(
                self.model, str(folder), key, autocast_adapter_dtype=False
            )
        self.model = self.model.to(dtype).eval()
        self._alone.add(key)
        return key

    def bytes_of(self, adapter: str | None) -> int:
        """Memory of the model with this adapter."""
        own = self._products.get(adapter or "", {}).values()
        held = [*self.model.parameters(), *(part for one in own for part in (one.a, one.b))]
        return sum(part.numel() * part.element_size() for part in held)

    def can_share(self, adapter: str | None) -> bool:
        """Whether rows of this adapter (None: the base) can be in a pass with others'."""
        return adapter not in self._alone

    @contextmanager
    def only_adapter(self, adapter: str | None) -> Iterator[None]:
        """All rows of the passes within see this adapter, or none."""
        if self.can_share(adapter):
            with self._use_rows(_AdapterRows(None, [(adapter, 0, None)] if adapter else [])):
                yield
        else:
            if self.model.active_adapter != adapter:
                self.model.set_adapter(adapter)
            yield

    @contextmanager
    def rows_with_adapters(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Row i of the passes within sees `adapters[i]`; each must be one that `stands_beside`."""
        own = sorted((name, row) for row, name in enumerate(adapters) if name is not None)
        parts: list[tuple[str, int, int]] = []
        for place, (name, _) in enumerate(own):
            begin = parts.pop()[1] if parts and parts[-1][0] == name else place
            parts.append((name, begin, place + 1))
        order = torch.tensor([row for _, row in own], dtype=torch.long, device=self.model.device)
        with self._use_rows(_AdapterRows(order, parts)):
            yield

    @contextmanager
    def _use_rows(self, rows: _AdapterRows) -> Iterator[None]:
        """What `_by_rows` goes by; layers that don't must show no adapter."""
        before, self._rows = self._rows, rows
        try:
            with self.model.disable_adapter() if self._alone else nullcontext():
                yield
        finally:
            self._rows = before


def _forward_by_rows(
    weights: MultiLoraModel, layer: torch.nn.Module
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass of a linear layer that adds each adapter's product to its rows."""
    plain = layer.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = plain(x)
        rows = weights._rows
        # An adapter may leave this layer alone.
        found = [
            (product, begin, end)
            for name, begin, end in (rows.parts if rows else ())
            if (product := weights._products[name].get(layer))
        ]
        if rows is None or not found:
            return y
        own = x if rows.order is None else x[rows.order]
        added = y.new_zeros(len(own), *y.shape[1:])
        for product, begin, end in found:
            inner = own[begin:end].flatten(0, -2) @ product.a.T
            flat = added[begin:end].flatten(0, -2)
            torch.addmm(flat, inner, product.b.T, beta=0, alpha=product.scaling, out=flat)
        return y.add_(added) if rows.order is None else y.index_add_(0, rows.order, added)

    return forward


def _load_products(
    model: Any, folder: Path, dtype: torch.dtype
) -> dict[torch.nn.Module, _LoraProduct] | None:
    """The products that an adapter adds, by layer; None if it does anything else."""
    config: Any = PeftConfig.from_pretrained(str(folder))
    usual = LoraConfig()
    if type(config) is not LoraConfig or any(
        getattr(config, field.name) != getattr(usual, field.name)
        for field in fields(LoraConfig)
        if field.name not in _PLAIN_LORA_FIELDS
    ):
        return None
    tensors = load_file(folder / "adapter_model.safetensors", device=str(model.device))
    found: dict[torch.nn.Module, _LoraProduct] = {}
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    alphas: dict[str, float] = config.alpha_pattern or {}
    for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        held = inner.get_submodule(path)
        layer = held.get_base_layer() if isinstance(held, BaseTunerLayer) else held
        if type(layer) is not torch.nn.Linear:
            return None
        a, b = tensors.pop(name), tensors.pop(name.replace(".lora_A.", ".lora_B."))
        alpha = alphas.get(get_pattern_key(list(alphas), path), config.lora_alpha)
        scaling = alpha / (len(a) ** 0.5 if config.use_rslora else len(a))
        found[layer] = _LoraProduct(a.to(dtype), b.to(dtype), scaling)
    return None if tensors else found
