"""Launch the processes that train together, or join those that torchrun has started.

`burnish train` starts the worker processes of this machine itself. Where torchrun has started them
all (`torchrun -m burnish train ...`, several machines too), each takes its rank from the
environment.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from burnish.core.errors import BadRecipe, BurnishError, TrainingStopped
from burnish.core.progress import say
from burnish.core.recipe.train import Train
from burnish.core.settings import is_launched_by_torchrun
from burnish.train.distributed.process_group import SINGLE, TIMEOUT, ProcessGroup

_LOCALHOST = "127.0.0.1"

#: Seconds to wait, after a collective operation failed, for the exit of the process that broke it.
_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process that this one has started, with its stderr."""

    rank: int
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]

    @property
    def exit_description(self) -> str:
        """How it ended, in words; empty while it runs and if it ended well."""
        code = self.process.poll()
        if not code:
            return ""
        if code < 0:
            return f"was killed by signal {-code}"
        self.stderr.seek(0)
        last = self.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"ended with code {code}" + (f": {last[0]}" if last else "")


def reject_idle_processes(settings: Train) -> None:
    """Raise BadRecipe if torchrun has started processes and the recipe gives them nothing to do:
    each of them would train alone."""
    if is_launched_by_torchrun() and settings.parallel == "none":
        raise BadRecipe(
            "torchrun has started the processes, and train.parallel is none.",
            "Set train.parallel=ddp, or call burnish without torchrun.",
        )


@contextmanager
def launch(settings: Train, command: str) -> Iterator[ProcessGroup]:
    """Start the process group that the recipe asks for, this process as rank 0, and end it.

    Raises BadRecipe if there are too few devices, TrainingStopped when one of the processes dies;
    `command` resumes the run.
    """
    if settings.parallel == "none":
        yield SINGLE
        return
    if is_launched_by_torchrun():
        with join_torchrun(settings) as process_group:
            yield process_group
        return
    size = _world_size(settings)
    store = TCPStore(_LOCALHOST, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
    say(f"Training in {size} processes ({settings.parallel})")
    workers = [_start(rank, size, store.port) for rank in range(1, size)]
    try:
        _wait_for_workers(store, workers)
        with _init_process_group(store, 0, size):
            yield ProcessGroup(0, size, settings.parallel)
    except RuntimeError as fault:
        if isinstance(fault, BurnishError) or not (exited := _first_exit(workers)):
            raise
        raise TrainingStopped(
            exited, f"The saved checkpoints are whole; then: {command}"
        ) from fault
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
            worker.stderr.close()


@contextmanager
def join_torchrun(settings: Train) -> Iterator[ProcessGroup]:
    """Join the process group of torchrun, with the rank that it has given to this process."""
    local_rank = dist.get_node_local_rank()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    dist.init_process_group(_backend(), timeout=TIMEOUT)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), settings.parallel)
    finally:
        dist.destroy_process_group()


@contextmanager
def join_main(rank: int, size: int, port: int) -> Iterator[ProcessGroup]:
    """Join the process group whose main process has started this one."""
    store = TCPStore(_LOCALHOST, port, is_master=False, timeout=TIMEOUT)
    store.set(f"here-{rank}", "")
    with _init_process_group(store, rank, size):
        yield ProcessGroup(rank, size)


@contextmanager
def _init_process_group(store: Store, rank: int, size: int) -> Iterator[None]:
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    dist.init_process_group(_backend(), store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _world_size(settings: Train) -> int:
    """Return the number of processes. Raises BadRecipe for too few devices, or if it isn't set."""
    gpus = torch.cuda.device_count()
    size = settings.devices or gpus
    if gpus and size > gpus:
        raise BadRecipe(
            f"train.devices is {size} and this machine has {gpus} GPUs.",
            f"Set train.devices={gpus}, or leave it out.",
        )
    if size < 2:
        raise BadRecipe(
            f"train.parallel={settings.parallel} needs several devices, and there is one.",
            "Set train.parallel=none; or, to share a CPU's cores, train.devices to 2 or more.",
        )
    return size


def _start(rank: int, size: int, port: int) -> WorkerProcess:
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed when the process group ends
    arguments = [sys.executable, "-m", "burnish.train.worker", str(rank), str(size), str(port)]
    # A session of its own: Ctrl-C reaches the main process, which ends the workers.
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )
    return WorkerProcess(rank, process, stderr)


def _wait_for_workers(store: TCPStore, workers: Sequence[WorkerProcess]) -> None:
    """Wait until all workers have joined. Raises RuntimeError if one dies before."""
    keys = [f"here-{worker.rank}" for worker in workers]
    while not store.check(keys):
        if any(worker.exit_description for worker in workers):
            raise RuntimeError("A process died before it had joined.")
        time.sleep(0.05)


def _first_exit(workers: Sequence[WorkerProcess]) -> str:
    """Describe the exit of the process that died first; return "" if all live."""
    until = time.monotonic() + _GRACE
    while time.monotonic() < until:
        ended = [worker for worker in workers if worker.exit_description]
        if ended:
            # A killed process comes first: the others may only have lost the connection to it.
            first = min(ended, key=lambda worker: worker.process.returncode)
            return f"Process {first.rank} of {len(workers) + 1} {first.exit_description}."
        time.sleep(0.05)
    return ""
