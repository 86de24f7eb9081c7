"""A sandbox for untrusted Python: a grader's source, on Linux.

Each process runs in `bubblewrap` (its namespaces: no network, no processes, no files but the
interpreter's, an environment of its own), under a filter of system calls (seccomp), limits
(rlimits) and a timer outside that kills it. It needs no root. `self_test.py` attacks it before it
is used.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.core.errors import BurnishError
from burnish.evaluate.sandbox.seccomp import write_filter

#: The hosted API's limit of the length of a source, in characters.
MAX_SOURCE_LENGTH = 256 * 1024
#: An answer is a number, or an error of at most 4000 characters.
_MAX_ANSWER_BYTES = 64 * 1024
_NOBODY = "65534"
#: One thread: creating others is denied.
_SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_ENVIRONMENT = {"HOME": "/tmp", "LANG": "C.UTF-8", **_SINGLE_THREADED}
_INSIDE = Path(__file__).with_name("inside.py")
#: Prefixes of the tools' error messages.
_TOOLS = ("bwrap:", "choom:")
_FIX = (
    "Install what is missing (apt-get install bubblewrap libseccomp2), allow unprivileged user "
    "namespaces (in a container: --security-opt seccomp=unconfined, or run on the host), "
    "or turn python graders off."
)


class SandboxUnavailable(BurnishError):
    """No sandbox can be set up on this machine."""

    def __init__(self, why: str) -> None:
        super().__init__(f"python graders cannot be run safely here: {why}.", _FIX)


class GraderFailed(Exception):
    """The source failed to load, raised, returned no number, or was killed; the text says which."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Wall-clock seconds per call, bytes of memory and of files. (The hosted API's.)"""

    seconds: float = 120.0
    memory: int = 2 * 2**30
    disk: int = 2**30


@dataclass
class Sandbox:
    """One source in a process that is reused for the next call, and restarted after a kill.

    To be used by one thread, which must outlive it: the process ends with the thread.
    """

    source: str
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def load(self) -> None:
        """Run the source without grading anything. Raises GraderFailed, SandboxUnavailable."""
        self._ask({})

    def grade(self, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        """Return the value of `grade(sample, item)`: a finite number.

        Raises GraderFailed, SandboxUnavailable.
        """
        value = self._ask({"sample": sample, "item": item})
        if not isinstance(value, int | float):
            raise GraderFailed("grade() returned no number")
        with suppress(OverflowError):
            if math.isfinite(value):
                return float(value)
        raise GraderFailed("grade() returned no finite number")

    def close(self) -> None:
        """Kill the process and everything in it."""
        self._end()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        """Send a request and read its answer, as lines of JSON. The timer kills the process, which
        ends the read."""
        timed_out = threading.Event()

        def kill(process: subprocess.Popen[bytes]) -> None:
            timed_out.set()
            process.kill()

        is_new = self._process is None
        process = self._process = self._process or start_process(self.limits)
        assert process.stdin and process.stdout
        timer = threading.Timer(self.limits.seconds, kill, [process])
        timer.start()
        try:
            with suppress(BrokenPipeError):
                if is_new:
                    limits = {"memory": self.limits.memory, "disk": self.limits.disk}
                    process.stdin.write(_encode_line({"source": self.source, **limits}))
                process.stdin.write(_encode_line(request))
                process.stdin.flush()
            line = process.stdout.readline(_MAX_ANSWER_BYTES)
        finally:
            timer.cancel()
        answer = _decode_line(line)
        if answer is not None:
            if "error" in answer:
                # Not every string that a source raises is valid UTF-8.
                raise GraderFailed(str(answer["error"])[:4000].encode("utf-8", "replace").decode())
            return answer.get("reward")
        output = self._end()
        if output.startswith(_TOOLS):
            raise SandboxUnavailable(output.strip())
        if timed_out.is_set():
            raise GraderFailed(f"the grader was stopped after {self.limits.seconds:g} seconds")
        raise GraderFailed("the grader's process ended without an answer")

    def _end(self) -> str:
        """Kill the process and return its stderr."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()
        with suppress(BrokenPipeError):
            return process.communicate()[1].decode(errors="replace")
        return ""


def _encode_line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _decode_line(line: bytes) -> dict[str, Any] | None:
    """Parse an answer of untrusted code; None if it isn't one."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def start_process(limits: SandboxLimits) -> subprocess.Popen[bytes]:
    """Start a sandboxed process that waits for a source on stdin. Raises SandboxUnavailable."""
    tools = [shutil.which(name) for name in ("choom", "bwrap")]
    if sys.platform != "linux" or not all(tools):
        raise SandboxUnavailable("it needs Linux with the programs bwrap and choom")
    choom, bwrap = map(str, tools)
    try:
        with write_filter() as syscall_filter:
            options = [*_walls(limits), "--seccomp", str(syscall_filter)]
            return subprocess.Popen(
                # If memory runs out, the kernel must kill this process, not the server.
                [choom, "-n", "1000", "--", bwrap, *options, "--", *_interpreter()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[syscall_filter],
                env={},
            )
    except (OSError, ImportError, RuntimeError) as error:
        raise SandboxUnavailable(f"{type(error).__name__}: {error}") from error


def _walls(limits: SandboxLimits) -> list[str]:
    """Return bubblewrap's options."""
    options = ["--unshare-user", "--disable-userns", "--unshare-all", "--die-with-parent"]
    options += ["--new-session", "--cap-drop", "ALL", "--uid", _NOBODY, "--gid", _NOBODY]
    options += ["--hostname", "grader", "--clearenv"]
    for name, value in _ENVIRONMENT.items():
        options += ["--setenv", name, value]
    options += ["--size", str(limits.disk), "--tmpfs", "/tmp"]
    for path in _libraries():
        options += ["--ro-bind", path, path]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        options += ["--dev-bind", device, device]
    return [*options, "--remount-ro", "/", "--chdir", "/tmp"]


def _interpreter() -> list[str]:
    """Return the command of Python without the environment, and without running `.pth` files."""
    python = os.path.realpath(sys.executable)
    return [python, "-I", "-S", "-B", "-c", _INSIDE.read_text(encoding="utf-8"), *_packages()]


def _packages() -> list[str]:
    """Return the folders of installed libraries: a grader may import numpy and the like."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _libraries() -> list[str]:
    """Return everything visible inside: the interpreter and the libraries that it loads."""
    python = os.path.realpath(sys.executable)
    paths = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", python]
    paths += [os.path.join(sys.base_prefix, "lib"), sysconfig.get_path("stdlib"), *_packages()]
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]
