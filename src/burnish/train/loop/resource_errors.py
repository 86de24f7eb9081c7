"""Out of memory and out of disk as errors of one sentence; the run stays resumable."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from burnish.core.disk_errors import DISK_ERRORS, describe_disk_error, disk_error_remedy
from burnish.core.errors import BurnishError, StorageFailed, TrainingStopped

_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "could not create a memory")
_FIX = "Halve train.micro_batch_tokens, or set train.gradient_checkpointing=true"


@contextmanager
def resource_errors(then: str, error: type[BurnishError] = TrainingStopped) -> Iterator[None]:
    """Turn the memory and disk errors of any library into `error`; `then` ends the fix.

    A training that stopped because of its disk raises StorageFailed.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, SafetensorError) as fault:
        if is_out_of_memory(fault):
            raise error("There is no memory left.", f"{_FIX}; {then}") from fault
        if disk_error := _describe_disk_fault(fault):
            kind = StorageFailed if error is TrainingStopped else error
            what, fix = disk_error
            raise kind(f"{what}: {fault}.", f"{fix}; {then}") from fault
        raise


def is_out_of_memory(fault: BaseException) -> bool:
    """Return True if memory has run out, which torch reports in several ways."""
    if isinstance(fault, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(fault, OSError):
        return fault.errno == errno.ENOMEM
    return any(words in str(fault) for words in _NO_MEMORY)


def _describe_disk_fault(fault: BaseException) -> tuple[str, str] | None:
    """Return what happened and the fix; safetensors has the error number in its text only."""
    if isinstance(fault, SafetensorError):
        matches = (
            what for number, what in DISK_ERRORS.items() if f"os error {number})" in str(fault)
        )
        what = next(matches, None)
        return (what, disk_error_remedy(what)) if what else None
    return describe_disk_error(fault)
