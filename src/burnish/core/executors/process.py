"""A process that does one task and ends with whoever started it, however that one ends."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from burnish.core.errors import Unavailable

#: Times that a process may die one after another without getting any further.
MAX_CRASHES = 5
#: How a process says what kept it from its task. Numbers that no trainer ends with by itself.
ORPHANED, CLUSTER_UNREACHABLE, NODE_LOST, WORKSPACE_UNSEEN, NODE_TOO_SMALL = 75, 69, 76, 77, 78
_EXIT_REASONS = {
    NODE_LOST: "its node of the Ray cluster was lost",
    WORKSPACE_UNSEEN: "its node of the Ray cluster doesn't see the workspace's folder",
    NODE_TOO_SMALL: "no node of the Ray cluster has as many CPUs as are asked for",
}


@dataclass(frozen=True, slots=True)
class ProcessTask:
    """`python -m module arguments...`; what it says goes to the end of `log`."""

    module: str
    arguments: Sequence[str]
    log: Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started; when stopped it gets `patience` seconds to end by itself."""

    process: subprocess.Popen[bytes]
    patience: float = 0.0

    def poll(self) -> int | None:
        """Its exit code, or None while it works. Raises Unavailable if its cluster is away."""
        code = self.process.poll()
        if code == CLUSTER_UNREACHABLE:
            raise Unavailable(
                "The Ray cluster can't be reached.", "See that it runs: `ray status` on its head."
            )
        return code

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        assert self.process.stdin
        self.process.stdin.close()
        if self.patience:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self.patience)
        self.process.kill()
        self.process.wait()


def spawn(
    module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start Python on this machine; the end of its stdin that we hold is what `end_with` reads."""
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env=dict(environment),
        )


def on_parent_exit(then: Callable[[], None]) -> None:
    """Do something as soon as whoever holds the other end of stdin has gone, or closes it."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        then()

    threading.Thread(target=wait, daemon=True).start()


def exit_with_parent() -> None:
    """End this process at once when whoever started it has gone."""
    on_parent_exit(lambda: os._exit(ORPHANED))


def describe_exit(code: int) -> str:
    """How a process ended, in words. 128 and a signal is how shells, and our driver, say it."""
    if code < 0 or code > 128:
        return f"signal {-code if code < 0 else code - 128}; often no memory"
    return _EXIT_REASONS.get(code, f"code {code}")
