"""Memory claims: what each process of a process group needs of its memory.

Processes of one machine without GPUs share its main memory; with GPUs each process has its own.
"""

import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from burnish.models.load import available_memory
from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.loop.peak_memory import current_memory


@dataclass(frozen=True, slots=True)
class MemoryClaim:
    """Bytes that one process needs at its peak (low, expected, high), bytes that it uses now, and
    bytes that are free in the memory of its `device`."""

    device: str
    low: float
    expected: float
    high: float
    used: int
    free: int


def gather_claims(process_group: ProcessGroup, peak: "Quantity") -> tuple[MemoryClaim, ...]:
    """Return the claims of all processes, by rank; each calls this with its own peak."""
    device = platform.node()
    if torch.cuda.is_available():
        device += f"/{torch.cuda.current_device()}"
    bounds = (peak.low, peak.expected, peak.high)
    own = MemoryClaim(device, *bounds, used=current_memory(), free=available_memory())
    return tuple(process_group.gather(own))


def first_shortage(claims: Sequence[MemoryClaim]) -> tuple[float, float] | None:
    """Return the (needed, available) bytes of the first memory that is too small for the processes
    that share it; None if everything fits."""
    by_device = defaultdict(list)
    for claim in claims:
        by_device[claim.device].append(claim)
    for sharing in by_device.values():
        needed = sum(claim.high for claim in sharing)
        available = min(claim.free for claim in sharing) + sum(claim.used for claim in sharing)
        if needed > available:
            return needed, available
    return None


@dataclass(frozen=True, slots=True)
class Quantity:
    """One forecast with its interval, and the actual value. `unit` is `bytes` or `seconds`."""

    name: str
    unit: str
    low: float
    expected: float
    high: float
    actual: float | None = None
