"""A worker process that exits when its parent does, however the parent dies."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from burnish.core.errors import Unavailable

#: Crashes in a row, without progress, after which a process is given up.
MAX_CRASHES = 5
#: Exit codes that say why a task could not run; no trainer uses them.
ORPHANED, CLUSTER_UNREACHABLE, NODE_LOST, WORKSPACE_UNSEEN, NODE_TOO_SMALL = 75, 69, 76, 77, 78
_EXIT_REASONS = {
    NODE_LOST: "its node of the Ray cluster was lost",
    WORKSPACE_UNSEEN: "its node of the Ray cluster doesn't see the workspace's folder",
    NODE_TOO_SMALL: "no node of the Ray cluster has as many CPUs as are asked for",
}


@dataclass(frozen=True, slots=True)
class ProcessTask:
    """`python -m module arguments...`; its output is appended to `log`."""

    module: str
    arguments: Sequence[str]
    log: Path


@dataclass(frozen=True, slots=True)
class Process:
    """A running process; `stop` gives it `patience` seconds to end by itself."""

    process: subprocess.Popen[bytes]
    patience: float = 0.0

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs. Raises Unavailable if its cluster is
        unreachable."""
        code = self.process.poll()
        if code == CLUSTER_UNREACHABLE:
            raise Unavailable(
                "The Ray cluster can't be reached.", "See that it runs: `ray status` on its head."
            )
        return code

    def stop(self) -> None:
        """End the process and wait for it."""
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
    """Start Python on this machine; the child watches its stdin, whose other end we hold, to notice
    our exit (`on_parent_exit`)."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=dict(environment),
        )


def on_parent_exit(then: Callable[[], None]) -> None:
    """Call `then` as soon as the parent closes its end of our stdin or dies."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        then()

    threading.Thread(target=wait, daemon=True).start()


def exit_with_parent() -> None:
    """Exit this process at once when its parent is gone."""
    on_parent_exit(lambda: os._exit(ORPHANED))


def describe_exit(code: int) -> str:
    """Describe an exit code in words. 128 + signal is the convention of shells and of our
    driver."""
    if code < 0 or code > 128:
        return f"signal {-code if code < 0 else code - 128}; often out of memory"
    return _EXIT_REASONS.get(code, f"code {code}")
