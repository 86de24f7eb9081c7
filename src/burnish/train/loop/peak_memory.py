"""Peak memory: of the GPU if there is one, else of this process."""

import ctypes
import resource
import sys
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Reset the peak to the current use, where the system allows it (Linux, CUDA)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _RESET.exists():
        _RESET.write_text("5")


def peak_memory() -> int:
    """Return the peak in bytes since `reset_peak` (elsewhere, since the process began)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def current_memory() -> int:
    """Return the bytes in use now."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    return _status("VmRSS") if _STATUS.exists() else peak_memory()


def release_memory() -> None:
    """Return freed memory to the system, so that `current_memory` counts what is in use (glibc)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
