"""A sandbox for Python that somebody else has written: a grader's source, on Linux.

Each process is one `bubblewrap` (its namespaces: no network, no processes, no files but the
interpreter's, an environment of its own), a filter of system calls (seccomp), limits (rlimits) and
a clock outside that kills it. It needs no root. `sandbox_proof.py` attacks it before it is used.
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

#: The hosted API's limit of a source.
MAX_SOURCE_BYTES = 256 * 1024
#: An answer is a number, or an error of at most 4000 letters.
_MAX_ANSWER_BYTES = 64 * 1024
_NOBODY = "65534"
#: One thread: others are refused.
_SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_ENVIRONMENT = {"HOME": "/tmp", "LANG": "C.UTF-8", **_SINGLE_THREADED}
_INSIDE = Path(__file__).with_name("inside.py")
#: How their errors begin.
_TOOLS = ("bwrap:", "choom:")
_FIX = (
    "Install what is missing (apt-get install bubblewrap libseccomp2), allow unprivileged user "
    "namespaces (in a container: --security-opt seccomp=unconfined, or run on the machine itself), "
    "or leave python graders off."
)


class SandboxUnavailable(BurnishError):
    """Nothing on this machine can hold foreign code."""

    def __init__(self, why: str) -> None:
        super().__init__(f"python graders cannot be run safely here: {why}.", _FIX)


class GraderFailed(Exception):
    """The source could not be loaded, raised, gave no number, or was ended; the text says which."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Seconds of a call by the clock, bytes of memory and of files. (The hosted API's.)"""

    seconds: float = 120.0
    memory: int = 2 * 2**30
    disk: int = 2**30


@dataclass
class Sandbox:
    """One source in a process that stays for the next call; killed, it begins anew.

    To be used by one thread, which must outlive it: the process ends with the thread.
    """

    source: str
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def load(self) -> None:
        """Run the source without grading anything. Raises Failed, SandboxUnavailable."""
        self._ask({})

    def grade(self, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        """What `grade(sample, item)` returns: a finite number.

        Raises Failed, SandboxUnavailable.
        """
        found = self._ask({"sample": sample, "item": item})
        if not isinstance(found, int | float):
            raise GraderFailed("grade() returned no number")
        with suppress(OverflowError):
            if math.isfinite(found):
                return float(found)
        raise GraderFailed("grade() returned no finite number")

    def close(self) -> None:
        """End the process, and all that it holds."""
        self._end()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        """A question and its answer, as lines of JSON. The clock kills, which ends the reading."""
        late = threading.Event()

        def end(process: subprocess.Popen[bytes]) -> None:
            late.set()
            process.kill()

        new = self._process is None
        process = self._process = self._process or start_process(self.limits)
        assert process.stdin and process.stdout
        clock = threading.Timer(self.limits.seconds, end, [process])
        clock.start()
        try:
            with suppress(BrokenPipeError):
                if new:
                    most = {"memory": self.limits.memory, "disk": self.limits.disk}
                    process.stdin.write(_encode_line({"source": self.source, **most}))
                process.stdin.write(_encode_line(request))
                process.stdin.flush()
            line = process.stdout.readline(_MAX_ANSWER_BYTES)
        finally:
            clock.cancel()
        told = _decode_line(line)
        if told is not None:
            if "error" in told:
                # Not every text that a source raises can be sent on.
                raise GraderFailed(str(told["error"])[:4000].encode("utf-8", "replace").decode())
            return told.get("reward")
        said = self._end()
        if said.startswith(_TOOLS):
            raise SandboxUnavailable(said.strip())
        if late.is_set():
            raise GraderFailed(f"the grader was ended after {self.limits.seconds:g} seconds")
        raise GraderFailed("the grader's process ended without an answer")

    def _end(self) -> str:
        """Kill the process; what was said before the source ran."""
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
    """What was told, by code that nobody trusts; None if it is no answer."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def start_process(limits: SandboxLimits) -> subprocess.Popen[bytes]:
    """A process inside, which waits for a source on stdin. Raises SandboxUnavailable."""
    tools = [shutil.which(name) for name in ("choom", "bwrap")]
    if sys.platform != "linux" or not all(tools):
        raise SandboxUnavailable("it needs Linux with the programs bwrap and choom")
    choom, bwrap = map(str, tools)
    try:
        with write_filter() as calls:
            walls = [*_walls(limits), "--seccomp", str(calls)]
            return subprocess.Popen(
                # If memory ends, the kernel is to end this process and not the server.
                [choom, "-n", "1000", "--", bwrap, *walls, "--", *_interpreter()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[calls],
                env={},
            )
    except (OSError, ImportError, RuntimeError) as error:
        raise SandboxUnavailable(f"{type(error).__name__}: {error}") from error


def _walls(limits: SandboxLimits) -> list[str]:
    """What bubblewrap is to put around the process."""
    own = ["--unshare-user", "--disable-userns", "--unshare-all", "--die-with-parent"]
    own += ["--new-session", "--cap-drop", "ALL", "--uid", _NOBODY, "--gid", _NOBODY]
    own += ["--hostname", "grader", "--clearenv"]
    for name, value in _ENVIRONMENT.items():
        own += ["--setenv", name, value]
    own += ["--size", str(limits.disk), "--tmpfs", "/tmp"]
    for path in _libraries():
        own += ["--ro-bind", path, path]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        own += ["--dev-bind", device, device]
    return [*own, "--remount-ro", "/", "--chdir", "/tmp"]


def _interpreter() -> list[str]:
    """Python without the environment, and without what `.pth` files would run."""
    python = os.path.realpath(sys.executable)
    return [python, "-I", "-S", "-B", "-c", _INSIDE.read_text(encoding="utf-8"), *_packages()]


def _packages() -> list[str]:
    """Where the installed libraries lie: numpy and the like may be imported by a grader."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _libraries() -> list[str]:
    """All that is visible inside: the interpreter and the libraries that it loads."""
    python = os.path.realpath(sys.executable)
    wanted = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", python]
    wanted += [os.path.join(sys.base_prefix, "lib"), sysconfig.get_path("stdlib"), *_packages()]
    return [path for path in dict.fromkeys(wanted) if os.path.exists(path)]
