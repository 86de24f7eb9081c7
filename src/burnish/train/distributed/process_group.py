"""The processes that train one model together: who they are, and what they tell each other.

Collective operations are torch.distributed's: NCCL between GPUs, Gloo between CPUs. All processes
must call them in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from burnish.train.batching.examples import Example

T = TypeVar("T")

#: A process that dies is noticed at once; one that writes a checkpoint is waited for.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Process `rank` (from 0) of `size`; `mode` is `train.parallel`, what they divide."""

    rank: int = 0
    size: int = 1
    mode: str = "none"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, prints, and is asked."""
        return self.rank == 0

    def broadcast(self, thing: T) -> T:
        """What the leader has; the others' `thing` is not looked at."""
        if self.size == 1:
            return thing
        held = [thing if self.is_main else None]
        dist.broadcast_object_list(held, src=0)
        return held[0]  # type: ignore[return-value]

    def gather(self, thing: T) -> list[T]:
        """What each process has, by rank."""
        if self.size == 1:
            return [thing]
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, thing)
        return held

    def reseed(self, seed: int, step: int) -> None:
        """Random numbers of this process for one step, so that no two drop out the same, and a
        resumed run the same as an undisturbed one. A process alone goes on with those it has."""
        if self.size > 1:
            torch.manual_seed(hash((seed, step, self.rank)))


#: A process that trains by itself.
SINGLE = ProcessGroup()


def split_by_tokens(rows: Sequence[Example], count: int) -> list[list[Example]]:
    """Rows dealt out in `count` parts: the longest first, each to whoever has the least so far."""
    if count == 1:
        return [list(rows)]
    parts: list[list[Example]] = [[] for _ in range(count)]
    loads = [0] * count
    for row in sorted(rows, key=lambda row: -_tokens(row)):
        least = loads.index(min(loads))
        parts[least].append(row)
        loads[least] += _tokens(row)
    return parts


def _tokens(row: Example) -> int:
    return sum(len(answer.ids) for answer in row.answers)
