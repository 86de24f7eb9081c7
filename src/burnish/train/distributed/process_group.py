"""The process group: processes that train one model together, and what they exchange.

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
TIMEOUT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Process `rank` (from 0) of `size`; `mode` is `train.parallel`, what they shard."""

    rank: int = 0
    size: int = 1
    mode: str = "none"

    @property
    def is_main(self) -> bool:
        """True for rank 0, the only process that writes files and prints."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Return the main process's `value` in every process."""
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def reseed(self, seed: int, step: int) -> None:
        """Seed torch for one step, so that processes have different dropout masks, and a resumed
        run the same ones as an undisturbed run. A single process keeps its random state."""
        if self.size > 1:
            torch.manual_seed(hash((seed, step, self.rank)))


#: A process that trains alone.
SINGLE = ProcessGroup()


def split_by_tokens(rows: Sequence[Example], count: int) -> list[list[Example]]:
    """Split rows into `count` parts: the longest first, each to the part with the fewest tokens."""
    if count == 1:
        return [list(rows)]
    parts: list[list[Example]] = [[] for _ in range(count)]
    tokens = [0] * count
    for row in sorted(rows, key=lambda row: -_count_tokens(row)):
        least = tokens.index(min(tokens))
        parts[least].append(row)
        tokens[least] += _count_tokens(row)
    return parts


def _count_tokens(row: Example) -> int:
    return sum(len(answer.ids) for answer in row.answers)
