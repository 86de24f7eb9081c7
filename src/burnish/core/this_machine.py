"""Trainings as processes of this machine."""

from dataclasses import dataclass

from burnish.core.child import Child, Task, spawn
from burnish.core.settings import child_environment


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """The default. Each process uses `threads` threads, or as many as there are cores."""

    threads: int | None = None

    def check(self) -> None:
        """This machine is always there."""

    def start(self, task: Task) -> Child:
        """Start a process here."""
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        environment = child_environment(threads)
        return Child(spawn(task.module, task.arguments, task.log, environment))
