"""Trainings on the nodes of a Ray cluster (Moritz et al. 2018, arXiv:1712.05889).

Each has a driver, a local process that starts it and ends with its exit code. Ray's library may
kill its own process when the cluster is lost, so it never runs inside our server.
"""

import importlib.util
import subprocess
import sys
from dataclasses import dataclass

from burnish.core.errors import Unavailable
from burnish.core.executors.process import Process, ProcessTask, spawn
from burnish.core.progress import say
from burnish.core.settings import child_environment

_DRIVER = "burnish.core.executors.ray_driver"
#: Disable Ray's usage statistics.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
#: Seconds for a driver to end its task on the node.
_PATIENCE = 20.0
#: Seconds to wait for a cluster's answer.
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class RayExecutor:
    """Runs tasks on a Ray cluster.

    `name` is `ray` for the cluster that this machine belongs to (or `RAY_ADDRESS`), or
    `ray://HOST:PORT` for Ray's client. A training takes one GPU if there are any, and `cpus`.
    """

    name: str
    cpus: int | None = None

    def check(self) -> None:
        """Raise Unavailable if Ray isn't installed or the cluster can't be reached."""
        if importlib.util.find_spec("ray") is None:
            raise Unavailable("A Ray cluster needs Ray.", "pip install 'burnish[ray]'")
        say(f"Looking for the Ray cluster `{self.name}`")
        if why := self._connection_fault():
            raise Unavailable(
                f"The Ray cluster `{self.name}` can't be reached: {why}",
                "Start one with `RAY_USAGE_STATS_ENABLED=0 ray start --head`, or fix the address.",
            )

    def _connection_fault(self) -> str:
        """Return why a driver can't reach the cluster; empty if it can."""
        command = [sys.executable, "-m", _DRIVER, self.name, "0"]
        try:
            result = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=child_environment(_QUIET),
                timeout=_LONGEST,
            )
        except subprocess.TimeoutExpired:
            return f"no answer for {_LONGEST} seconds (is a node of it on this machine?)"
        last = result.stderr.strip().splitlines()[-1:] or [f"code {result.returncode}"]
        return last[0] if result.returncode else ""

    def start(self, task: ProcessTask) -> Process:
        """Start a driver on this machine; it waits for free resources on a node."""
        arguments = [self.name, str(self.cpus or 0), str(task.log), task.module, *task.arguments]
        driver = spawn(_DRIVER, arguments, task.log, child_environment(_QUIET))
        return Process(driver, _PATIENCE)
