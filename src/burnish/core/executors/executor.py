"""Executors start trainings: on this machine, or on any node of a Ray cluster.

A training is a process that writes into folders, holds a lock there, and can be resumed after a
kill. So an executor only starts and stops it; progress is read from the folders, which every node
must see under the same path.
"""

from dataclasses import dataclass
from typing import Protocol

from burnish.core.executors.process import Process, ProcessTask, spawn
from burnish.core.executors.ray import RayExecutor
from burnish.core.settings import child_environment


class Executor(Protocol):
    """Starts trainings."""

    def check(self) -> None:
        """Raise Unavailable if nothing can be started."""

    def start(self, task: ProcessTask) -> Process:
        """Start a task and return at once; the task ends when this process does."""


def open_executor(name: str, cpus: int | None = None) -> Executor:
    """Return the executor that `serve.executor` or `search.executor` names; empty is this machine.

    `cpus` is the number of CPUs that a training takes of a cluster node.
    """
    return RayExecutor(name, cpus) if name else LocalExecutor()


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """The default. Each process uses `threads` threads, or one per core."""

    threads: int | None = None

    def check(self) -> None:
        """Do nothing: this machine is always available."""

    def start(self, task: ProcessTask) -> Process:
        """Start a process on this machine."""
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        environment = child_environment(threads)
        return Process(spawn(task.module, task.arguments, task.log, environment))
