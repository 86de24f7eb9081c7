"""Attacks on the sandbox, tried before it is trusted: `run_self_test` reports what got through."""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.evaluate.sandbox.sandbox import (
    GraderFailed,
    Sandbox,
    SandboxLimits,
    SandboxUnavailable,
)

_REACH = """
import ctypes, os, socket, sys, threading
def tried(attempt, *given):
    try:
        attempt(*given)
    except (OSError, RuntimeError):
        return 0
    return 1
def child():
    if os.fork() == 0:
        os._exit(0)
def grade(sample, item):
"""
#: What must be unreachable → an expression that is 0 if it is.
REACHES: Mapping[str, str] = {
    "the network": "tried(socket.create_connection, ('127.0.0.1', item['port']), 2)",
    "a file of the server": "sum(os.path.exists(path) for path in item['paths'])",
    "another process": "tried(os.kill, -1, 0) + os.path.exists('/proc')",
    "the environment": "len(set(vars(os)['environ']) - set(item['known']))",
    "a file to write": "sum(tried(open, at + '/x', 'w') for at in ('', '/dev', os.__file__[:-6]))",
    "a child process": "tried(child)",
    "a thread": "tried(threading.Thread(target=print).start)",
    "more privileges": "tried(os.setuid, 0) + 1 + ctypes.CDLL(None).unshare(0x10000000)",
    "more disk": "os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize > item['disk']",
}
#: What must end or be killed.
BOMBS: Mapping[str, str] = {
    "memory": "def grade(sample, item):\n    return len(bytearray(item['memory'] + 1))",
    "time": "def grade(sample, item):\n    while True: pass",
    "output": "import os\ndef grade(sample, item):\n    while 1: os.write(item['fd'], b'x' * 9999)",
    "processes": "import os\ndef grade(sample, item):\n    while True: os.fork()",
}
_KNOWN = ("HOME", "LANG", "LC_CTYPE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PWD")
#: The file descriptor of the answer channel, which an output bomb would find by trying.
_CHANNEL = 4


def run_self_test(secrets: Sequence[Path], limits: SandboxLimits | None = None) -> None:
    """Attack a sandbox; `secrets` are paths that must be invisible inside.

    Raises SandboxUnavailable with what could be reached, or why there is no sandbox at all.
    """
    limits = limits or SandboxLimits()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        item = {
            "port": listening.getsockname()[1],
            "paths": ["/etc/passwd", "/root/.ssh", "/home", *map(str, secrets)],
            "known": _KNOWN,
            "disk": limits.disk,
            "memory": limits.memory,
            "fd": _CHANNEL,
        }
        for what, expression in REACHES.items():
            source = f"{_REACH}    return {expression}"
            try:
                reached = _run(source, item, SandboxLimits(20.0, limits.memory, limits.disk))
            except GraderFailed as error:
                raise SandboxUnavailable(f"its self-test failed at {what}: {error}") from error
            if reached:
                raise SandboxUnavailable(f"inside the sandbox {what} can be reached")
    for what, source in BOMBS.items():
        try:
            _run(source, item, SandboxLimits(1.0, limits.memory, limits.disk))
        except GraderFailed:
            continue
        raise SandboxUnavailable(f"a bomb of {what} was not stopped")


def _run(source: str, item: Mapping[str, Any], limits: SandboxLimits) -> float:
    with Sandbox(source, limits) as sandbox:
        return sandbox.grade({"output_text": ""}, item)


def secrets_of(home: Path) -> list[Path]:
    """Return the workspace and its top-level entries: the store, the keys, the runs."""
    home = home.resolve()
    return [home, *(Path(entry.path) for entry in os.scandir(home))] if home.is_dir() else [home]
