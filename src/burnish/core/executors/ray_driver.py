"""Run one task on a Ray cluster.

`python -m burnish.core.executors.ray_driver ADDRESS CPUS LOG MODULE ARGUMENT...`

It ends with the task's exit code and ends the task when its parent is gone. Without a LOG it only
checks that the cluster is reachable.
"""

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from burnish.core.executors.process import (
    CLUSTER_UNREACHABLE,
    NODE_LOST,
    NODE_TOO_SMALL,
    ORPHANED,
    ProcessTask,
    on_parent_exit,
)
from burnish.core.executors.ray_actor import TaskActor
from burnish.core.settings import local_folder_settings

#: Seconds between two polls; and for the node to end a task.
_TICK, _PATIENCE = 0.25, 8.0

_parent_gone, _task_started = threading.Event(), threading.Event()


def main(address: str, cpus: str, *task_arguments: str) -> int:
    """Run a task (log, module, arguments) on a node of the cluster and return an exit code."""
    if task_arguments:
        on_parent_exit(_stop_when_orphaned)
    try:
        ray.init(
            address="auto" if address == "ray" else address,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RayError, RuntimeError, OSError, ValueError) as fault:
        sys.stderr.write(f"{' '.join(str(fault).split())}\n")
        return CLUSTER_UNREACHABLE
    if not task_arguments:
        return 0
    log, module, *arguments = task_arguments
    needs = _required_resources(int(cpus))
    if needs is None:
        return NODE_TOO_SMALL
    return _wait_for_task(ProcessTask(module, arguments, Path(log)), needs)


def _required_resources(cpus: int) -> dict[str, float] | None:
    """Return the resources of a node that the task takes: by default all CPUs of the smallest node,
    and a GPU if there is one. None if no node has as many."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = float(any(node.get("GPU", 0) >= 1 for node in nodes))
    fit = [node.get("CPU", 0) for node in nodes if node.get("GPU", 0) >= gpus]
    wanted = cpus or min((count for count in fit if count >= 1), default=1)
    return {"num_cpus": wanted, "num_gpus": gpus} if max(fit, default=0) >= wanted else None


def _wait_for_task(task: ProcessTask, needs: dict[str, float]) -> int:
    """Wait for the task's end, or for our parent's."""
    _task_started.set()
    # One call waits for the task while another may stop it.
    actor: Any = ray.remote(TaskActor).options(**needs, max_concurrency=2).remote()
    exit_code = actor.run.remote(task, local_folder_settings())
    try:
        while not _parent_gone.is_set():
            if ray.wait([exit_code], timeout=_TICK)[0]:
                code = int(ray.get(exit_code))
                return code if code >= 0 else 128 - code
        ray.get(actor.stop.remote(), timeout=_PATIENCE)
    except GetTimeoutError:
        pass
    except RayActorError as fault:
        sys.stderr.write(f"{fault}\n")
        return NODE_LOST
    finally:
        ray.kill(actor)
    return ORPHANED


def _stop_when_orphaned() -> None:
    """Note that the parent is gone; exit at once if no task has started yet."""
    _parent_gone.set()
    if not _task_started.is_set():
        os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
