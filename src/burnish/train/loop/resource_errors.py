"""What can give out on a machine, told in one sentence; the run stays resumable."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from burnish.core.disk_errors import DISK_ERRORS, describe_disk_error, disk_error_remedy
from burnish.core.errors import BurnishError, StorageFailed, TrainingStopped

_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "could not create a memory")
_LESS = "Halve train.micro_batch_tokens, or set train.gradient_checkpointing=true"


@contextmanager
def resource_errors(then: str, error: type[BurnishError] = TrainingStopped) -> Iterator[None]:
    """Turn "no memory" and "no disk" of any library into `error`; `then` says how to go on.

    A training that stopped for its disk is told apart: StorageFailed.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, SafetensorError) as fault:
        if is_out_of_memory(fault):
            raise error("There is no memory left.", f"{_LESS}; {then}") from fault
        if trouble := _describe_disk_fault(fault):
            kind = StorageFailed if error is TrainingStopped else error
            raise kind(f"{trouble[0]}: {fault}.", f"{trouble[1]}; {then}") from fault
        raise


def is_out_of_memory(fault: BaseException) -> bool:
    """Whether memory is what has run out; torch has several ways to say it."""
    if isinstance(fault, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(fault, OSError):
        return fault.errno == errno.ENOMEM
    return any(words in str(fault) for words in _NO_MEMORY)


def _describe_disk_fault(fault: BaseException) -> tuple[str, str] | None:
    """What the disk has done and what helps; safetensors puts the number into its text."""
    if isinstance(fault, SafetensorError):
        told = (what for number, what in DISK_ERRORS.items() if f"os error {number})" in str(fault))
        what = next(told, None)
        return (what, disk_error_remedy(what)) if what else None
    return describe_disk_error(fault)
