"""Trainings on the nodes of a Ray cluster (Moritz et al. 2018, arXiv:1712.05889).

Each has a driver, a process of this machine that starts it and ends with its exit code. Ray's
library may end the process that it is in when the cluster is lost; so it is in no server of ours.
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
#: No figures about the use of Ray are sent to anybody.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
#: Seconds that a driver gets to end what it has started on its node.
_PATIENCE = 20.0
#: Seconds until a cluster that doesn't answer is given up.
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class RayExecutor:
    """`ray` is the cluster that this machine belongs to (or `RAY_ADDRESS`), `ray://HOST:PORT` one
    that is reached by Ray's client. A training takes one GPU if there are any, and `cpus`."""

    name: str
    cpus: int | None = None

    def check(self) -> None:
        """Raises Unavailable if Ray isn't installed or the cluster can't be reached."""
        if importlib.util.find_spec("ray") is None:
            raise Unavailable("A Ray cluster needs Ray.", "pip install 'burnish[ray]'")
        say(f"Looking for the Ray cluster `{self.name}`")
        if why := self._connection_fault():
            raise Unavailable(
                f"The Ray cluster `{self.name}` can't be reached: {why}",
                "Start one with `RAY_USAGE_STATS_ENABLED=0 ray start --head`, or mend the address.",
            )

    def _connection_fault(self) -> str:
        """What keeps a driver from the cluster; empty if nothing does."""
        asking = [sys.executable, "-m", _DRIVER, self.name, "0"]
        try:
            asked = subprocess.run(
                asking,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=child_environment(_QUIET),
                timeout=_LONGEST,
            )
        except subprocess.TimeoutExpired:
            return f"no answer for {_LONGEST} seconds (is a node of it on this machine?)"
        last = asked.stderr.strip().splitlines()[-1:] or [f"code {asked.returncode}"]
        return last[0] if asked.returncode else ""

    def start(self, task: ProcessTask) -> Process:
        """Start a driver here; it waits for room on a node."""
        told = [self.name, str(self.cpus or 0), str(task.log), task.module, *task.arguments]
        driver = spawn(_DRIVER, told, task.log, child_environment(_QUIET))
        return Process(driver, _PATIENCE)
