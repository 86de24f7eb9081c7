"""Where trainings run: on this machine, or on any node of a Ray cluster.

A training is a process that writes into folders, holds a lock there, and can be begun again where
it was killed. So all that an executor does is start one and stop it; progress is read from the
folders, which every node has to see under the same path.
"""

from dataclasses import dataclass
from typing import Protocol

from burnish.core.executors.process import Process, ProcessTask, spawn
from burnish.core.executors.ray import RayExecutor
from burnish.core.settings import child_environment


class Executor(Protocol):
    """Whoever starts trainings."""

    def check(self) -> None:
        """Raises Unavailable if nothing can be started."""

    def start(self, task: ProcessTask) -> Process:
        """Start a task; it ends when this process does. Returns at once."""


def open_executor(name: str, cpus: int | None = None) -> Executor:
    """What `serve.executor` or `search.executor` names; empty is this machine.

    `cpus` are what a training takes of a node of the cluster.
    """
    return RayExecutor(name, cpus) if name else LocalExecutor()


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """The default. Each process uses `threads` threads, or as many as there are cores."""

    threads: int | None = None

    def check(self) -> None:
        """This machine is always there."""

    def start(self, task: ProcessTask) -> Process:
        """Start a process here."""
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        environment = child_environment(threads)
        return Process(spawn(task.module, task.arguments, task.log, environment))
