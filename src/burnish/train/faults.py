"""What can give out on a machine, told in one sentence; the run stays resumable."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from burnish.core.errors import BurnishError, TrainingStopped

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "could not create a memory")
_LESS = "Halve train.micro_batch_tokens, or set train.gradient_checkpointing=true"


@contextmanager
def explained(then: str, error: type[BurnishError] = TrainingStopped) -> Iterator[None]:
    """Turn "no memory" and "no disk" of any library into `error`; `then` says how to go on."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError, SafetensorError) as fault:
        if is_memory(fault):
            raise error("There is no memory left.", f"{_LESS}; {then}") from fault
        if is_disk(fault):
            raise error(f"The disk is full: {fault}.", f"Free some space; {then}") from fault
        raise


def is_memory(fault: BaseException) -> bool:
    """Whether memory is what has run out; torch has several ways to say it."""
    if isinstance(fault, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(fault, OSError):
        return fault.errno == errno.ENOMEM
    return any(words in str(fault) for words in _NO_MEMORY)


def is_disk(fault: BaseException) -> bool:
    """Whether the disk is what has run out; safetensors puts the number into its text."""
    if isinstance(fault, OSError):
        return fault.errno in _FULL
    return isinstance(fault, SafetensorError) and any(
        f"os error {number})" in str(fault) for number in _FULL
    )
