"""What fits on which GPUs: models, methods and ways to divide them, reckoned from their shapes.

The arithmetic is that of `train.estimate` (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054), for
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

#: GPUs that are reckoned with.
COUNTS = (1, 2, 4, 8)

#: Method → the ways in which several processes can divide it.
WAYS: Mapping[str, tuple[str, ...]] = {
    "qlora": ("ddp", "zero1", "zero2"),
    "lora": ("ddp", "zero1", "zero2", "zero3"),
    "full": ("ddp", "zero1", "zero2", "zero3"),
}

#: The share of a GPU that a training may fill: the rest is the driver's and the allocator's.
SHARE = 0.9

ShapeFn = Callable[[LowRank | Full], ModelShape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is assumed of every training: bytes of a GPU, tokens of a pass, rank of the adapters,
    and whether activations are computed twice."""

    memory: float = 24e9
    tokens: int = 2048
    rank: int = 16
    checkpointing: bool = True


@dataclass(frozen=True, slots=True)
class TableCell:
    """One training: `gpus` devices that divide it as `parallel` says. Bytes of each GPU."""

    model: str
    method: str
    parallel: str
    gpus: int
    need: MemoryEstimate
    fits: bool

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish forecast --json` prints."""
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


def memory_table(terms: Assumptions, model: str = "") -> list[TableCell]:
    """Every method and way for the well-known models, or for one: theirs, or one of this machine.

    Raises NotFound for a model that is neither.
    """
    return [cell for name, shaped in _models(model).items() for cell in _cells(name, shaped, terms)]


def _models(asked: str) -> dict[str, ShapeFn]:
    public: dict[str, ShapeFn] = {name: model.shape for name, model in KNOWN_MODELS.items()}
    if not asked:
        return public
    for name, shape in public.items():
        if name.lower() == asked.lower():
            return {name: shape}
    base = find_model(asked)
    return {base.name: lambda method: model_shape(base, method)}


def _cells(name: str, shaped: ShapeFn, terms: Assumptions) -> Iterator[TableCell]:
    methods = (Qlora(rank=terms.rank), Lora(rank=terms.rank), Full())
    # 4 bits are a way to hold the weights; the adapters are those of LoRA.
    adapted, whole = shaped(methods[1]), shaped(methods[2])
    for method in methods:
        shape = whole if isinstance(method, Full) else adapted
        for count in COUNTS:
            for parallel in WAYS[method.kind] if count > 1 else ("none",):
                settings = Train(
                    method=method,
                    parallel=parallel,
                    devices=count if count > 1 else 0,
                    micro_batch_tokens=terms.tokens,
                    gradient_checkpointing=terms.checkpointing,
                )
                need = estimate_memory(shape, settings, "bfloat16")
                fits = need.on_device <= SHARE * terms.memory
                yield TableCell(name, method.kind, parallel, count, need, fits)
