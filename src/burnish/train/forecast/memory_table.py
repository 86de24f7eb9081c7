"""The table of `burnish forecast`: which models fit on which GPUs, by method and parallel mode.

The arithmetic is that of `forecast.estimate` (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054), for
weights in bfloat16.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from burnish.core.recipe.methods import Full, Lora, LowRank, Qlora
from burnish.core.recipe.train import Train
from burnish.models.local_models import find_model
from burnish.train.forecast.estimate import MemoryEstimate, ModelShape, estimate_memory, model_shape
from burnish.train.forecast.known_models import KNOWN_MODELS

#: Numbers of GPUs in the table.
COUNTS = (1, 2, 4, 8)

#: Method → the parallel modes of several GPUs.
WAYS: Mapping[str, tuple[str, ...]] = {
    "qlora": ("ddp", "zero1", "zero2"),
    "lora": ("ddp", "zero1", "zero2", "zero3"),
    "full": ("ddp", "zero1", "zero2", "zero3"),
}

#: The share of a GPU that a training may fill: the driver and the allocator need the rest.
SHARE = 0.9

ShapeFn = Callable[[LowRank | Full], ModelShape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Assumptions for every training: bytes of a GPU, tokens of a pass, rank of the adapters, and
    gradient checkpointing."""

    memory: float = 24e9
    tokens: int = 2048
    rank: int = 16
    checkpointing: bool = True


@dataclass(frozen=True, slots=True)
class TableCell:
    """One training on `gpus` devices with `train.parallel`. Bytes of each GPU."""

    model: str
    method: str
    parallel: str
    gpus: int
    need: MemoryEstimate
    fits: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish forecast --json` prints."""
        parts = asdict(self.need)
        del parts["process"]
        return {
            "model": self.model,
            "method": self.method,
            "parallel": self.parallel,
            "gpus": self.gpus,
            **{f"{name}_bytes": round(count) for name, count in parts.items()},
            "total_bytes": round(self.need.on_device),
            "fits": self.fits,
        }


def memory_table(assumptions: Assumptions, model: str = "") -> list[TableCell]:
    """Return all methods and parallel modes for the well-known models, or for one model: one of
    them, or one of this machine.

    Raises NotFound for an unknown model.
    """
    return [
        cell
        for name, shape_fn in _models(model).items()
        for cell in _cells(name, shape_fn, assumptions)
    ]


def _models(model: str) -> dict[str, ShapeFn]:
    known: dict[str, ShapeFn] = {name: one.shape for name, one in KNOWN_MODELS.items()}
    if not model:
        return known
    for name, shape_fn in known.items():
        if name.lower() == model.lower():
            return {name: shape_fn}
    base = find_model(model)
    return {base.name: lambda method: model_shape(base, method)}


def _cells(name: str, shape_fn: ShapeFn, assumptions: Assumptions) -> Iterator[TableCell]:
    methods = (Qlora(rank=assumptions.rank), Lora(rank=assumptions.rank), Full())
    # QLoRA stores the weights in 4 bits; its adapters are those of LoRA.
    adapted, full = shape_fn(methods[1]), shape_fn(methods[2])
    for method in methods:
        shape = full if isinstance(method, Full) else adapted
        for count in COUNTS:
            for parallel in WAYS[method.kind] if count > 1 else ("none",):
                settings = Train(
                    method=method,
                    parallel=parallel,
                    devices=count if count > 1 else 0,
                    micro_batch_tokens=assumptions.tokens,
                    gradient_checkpointing=assumptions.checkpointing,
                )
                need = estimate_memory(shape, settings, "bfloat16")
                fits = need.on_device <= SHARE * assumptions.memory
                yield TableCell(name, method.kind, parallel, count, need, fits)
