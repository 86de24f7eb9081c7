"""The process on a Ray node that starts a task there and waits for its end.

When this process ends, stopped or because its node is lost, so does the task.
"""

import subprocess
from collections.abc import Mapping

from burnish.core.executors.process import WORKSPACE_UNSEEN, ProcessTask, spawn
from burnish.core.settings import child_environment


class TaskActor:
    """A Ray actor for one task."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, task: ProcessTask, environment: Mapping[str, str]) -> int:
        """Run the task with these variables and return its exit code."""
        if not task.log.parent.is_dir():
            return WORKSPACE_UNSEEN
        self._process = spawn(task.module, task.arguments, task.log, child_environment(environment))
        return self._process.wait()

    def stop(self) -> None:
        """End the task and wait for it."""
        if self._process:
            self._process.kill()
            self._process.wait()
