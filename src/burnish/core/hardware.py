"""What a machine is, as far as it decides which engine is quickest on it."""

import platform
from pathlib import Path

import psutil

_CPUINFO = Path("/proc/cpuinfo")


def hardware() -> dict[str, str]:
    """System, architecture, processor, cores and memory: what was measured holds where they agree.

    A host's name isn't among them: a container gets another one each time.
    """
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor_name(),
        "cores": f"{psutil.cpu_count(logical=False)} of {psutil.cpu_count()} threads",
        "memory": f"{round(psutil.virtual_memory().total / 2**30)} GiB",
    }


def _processor_name() -> str:
    """Its model's name, where Python alone doesn't say it."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor()
