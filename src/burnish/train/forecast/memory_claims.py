"""What each of the processes that train together needs of the memory that it may share with others:
processes of one machine without GPU share its main memory, with GPUs each has its own."""

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
    """Bytes that one process will need at its peak, those that it has now, and those that are free
    in the memory that it draws from."""

    device: str
    low: float
    expected: float
    high: float
    used: int
    free: int


def gather_claims(team: ProcessGroup, peak: "Quantity") -> tuple[MemoryClaim, ...]:
    """What all processes need, by rank; each calls this with its own peak."""
    place = platform.node()
    if torch.cuda.is_available():
        place += f"/{torch.cuda.current_device()}"
    bounds = (peak.low, peak.expected, peak.high)
    own = MemoryClaim(place, *bounds, used=current_memory(), free=available_memory())
    return tuple(team.gather(own))


def first_shortage(claims: Sequence[MemoryClaim]) -> tuple[float, float] | None:
    """The bytes that are needed and those that are there, of the first memory in which the peaks of
    all who draw from it have no room together; None if all have."""
    places = defaultdict(list)
    for claim in claims:
        places[claim.device].append(claim)
    for sharing in places.values():
        need = sum(claim.high for claim in sharing)
        there = min(claim.free for claim in sharing) + sum(claim.used for claim in sharing)
        if need > there:
            return need, there
    return None


@dataclass(frozen=True, slots=True)
class Quantity:
    """One forecast with its interval, and what came out. `unit` is `bytes` or `seconds`."""

    name: str
    unit: str
    low: float
    expected: float
    high: float
    actual: float | None = None
