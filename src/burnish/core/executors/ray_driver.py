"""Run one task on a Ray cluster.

`python -m burnish.core.executors.ray_driver ADDRESS CPUS LOG MODULE ARGUMENT...`

It ends with the task's exit code. When whoever started it has gone, it ends the task. Without a
LOG it only says whether the cluster is there.
"""

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from burnish.core.executors.process import AWAY, LOST, ORPHAN, TOO_SMALL, Task, when_alone
from burnish.core.executors.ray_actor import Host
from burnish.core.settings import folders_of_this_machine

#: Seconds between two looks; and for the node to end a task.
_TICK, _PATIENCE = 0.25, 8.0

_alone, _at_work = threading.Event(), threading.Event()


def main(address: str, cpus: str, *told: str) -> int:
    """Do what was told on a node of the cluster; returns an exit code."""
    if told:
        when_alone(_end)
    try:
        ray.init(
            address="auto" if address == "ray" else address,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RayError, RuntimeError, OSError, ValueError) as fault:
        sys.stderr.write(f"{' '.join(str(fault).split())}\n")
        return AWAY
    if not told:
        return 0
    log, module, *arguments = told
    needs = _needs(int(cpus))
    if needs is None:
        return TOO_SMALL
    return _see_through(Task(module, arguments, Path(log)), needs)


def _needs(cpus: int) -> dict[str, float] | None:
    """What the task takes of a node: by default all CPUs of the smallest, and a GPU if there is
    one. None if there is no such node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = float(any(node.get("GPU", 0) >= 1 for node in nodes))
    fit = [node.get("CPU", 0) for node in nodes if node.get("GPU", 0) >= gpus]
    wanted = cpus or min((count for count in fit if count >= 1), default=1)
    return {"num_cpus": wanted, "num_gpus": gpus} if max(fit, default=0) >= wanted else None


def _see_through(task: Task, needs: dict[str, float]) -> int:
    """Wait for the task's end, or for ours."""
    _at_work.set()
    # One call waits for the task, another one may stop it.
    host: Any = ray.remote(Host).options(**needs, max_concurrency=2).remote()
    ended = host.run.remote(task, folders_of_this_machine())
    try:
        while not _alone.is_set():
            if ray.wait([ended], timeout=_TICK)[0]:
                code = int(ray.get(ended))
                return code if code >= 0 else 128 - code
        ray.get(host.stop.remote(), timeout=_PATIENCE)
    except GetTimeoutError:
        pass
    except RayActorError as fault:
        sys.stderr.write(f"{fault}\n")
        return LOST
    finally:
        ray.kill(host)
    return ORPHAN


def _end() -> None:
    """Whoever started us has gone: what is at work is ended first."""
    _alone.set()
    if not _at_work.is_set():
        os._exit(ORPHAN)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
