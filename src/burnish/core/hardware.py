"""The hardware facts that decide which engine is fastest on a machine."""

import platform
from pathlib import Path

import psutil

_CPUINFO = Path("/proc/cpuinfo")


def hardware() -> dict[str, str]:
    """Return system, architecture, processor, cores and memory: measurements hold where they agree.

    The host name is left out: a container gets a new one at every start.
    """
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor_name(),
        "cores": f"{psutil.cpu_count(logical=False)} of {psutil.cpu_count()} threads",
        "memory": f"{round(psutil.virtual_memory().total / 2**30)} GiB",
    }


def _processor_name() -> str:
    """Return the processor's model name; Python alone doesn't know it on Linux."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor()
