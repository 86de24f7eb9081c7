"""Starting the processes that train together, or joining those that a launcher has started.

`burnish train` starts the other processes of this machine itself and leads them. Where torchrun has
started them all (`torchrun -m burnish train ...`, several machines too), each finds its place in
the environment.
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
from burnish.train.distributed.process_group import PATIENCE, SINGLE, ProcessGroup

_HERE = "127.0.0.1"

#: Seconds that a process which has lost another one waits to learn which it was.
_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process that we started, and what it says on stderr."""

    rank: int
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]

    @property
    def exit_description(self) -> str:
        """How it ended, in words; empty while it runs or if it ended well."""
        code = self.process.poll()
        if not code:
            return ""
        if code < 0:
            return f"was killed by signal {-code}"
        self.stderr.seek(0)
        last = self.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"ended with code {code}" + (f": {last[0]}" if last else "")


def reject_idle_processes(settings: Train) -> None:
    """Raises BadRecipe if torchrun has started processes and the recipe gives them nothing to do;
    otherwise each of them would train by itself."""
    if is_launched_by_torchrun() and settings.parallel == "none":
        raise BadRecipe(
            "torchrun has started the processes, and train.parallel is none.",
            "Set train.parallel=ddp, or call burnish without torchrun.",
        )


@contextmanager
def launch(settings: Train, then: str) -> Iterator[ProcessGroup]:
    """The team that the recipe asks for, this process leading; it is dissolved at the end.

    Raises BadRecipe if there aren't as many devices, TrainingStopped when one of the processes
    dies; `then` says how to go on.
    """
    if settings.parallel == "none":
        yield SINGLE
        return
    if is_launched_by_torchrun():
        with join_torchrun(settings) as team:
            yield team
        return
    size = _world_size(settings)
    store = TCPStore(_HERE, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
    say(f"Training in {size} processes ({settings.parallel})")
    followers = [_start(rank, size, store.port) for rank in range(1, size)]
    try:
        _wait_for_workers(store, followers)
        with _init_process_group(store, 0, size):
            yield ProcessGroup(0, size, settings.parallel)
    except RuntimeError as fault:
        if isinstance(fault, BurnishError) or not (fate := _first_exit(followers)):
            raise
        raise TrainingStopped(fate, f"What is saved is whole; then: {then}") from fault
    finally:
        for follower in followers:
            follower.process.kill()
            follower.process.wait()
            follower.stderr.close()


@contextmanager
def join_torchrun(settings: Train) -> Iterator[ProcessGroup]:
    """The team that torchrun has started, this process at the place that it was given."""
    local = dist.get_node_local_rank()
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    dist.init_process_group(_backend(), timeout=PATIENCE)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), settings.parallel)
    finally:
        dist.destroy_process_group()


@contextmanager
def join_main(rank: int, size: int, port: int) -> Iterator[ProcessGroup]:
    """The team whose leader has started this process."""
    store = TCPStore(_HERE, port, is_master=False, timeout=PATIENCE)
    store.set(f"here-{rank}", "")
    with _init_process_group(store, rank, size):
        yield ProcessGroup(rank, size)


@contextmanager
def _init_process_group(store: Store, rank: int, size: int) -> Iterator[None]:
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    dist.init_process_group(_backend(), store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _world_size(settings: Train) -> int:
    """How many processes. Raises BadRecipe if there are too few devices, or nobody says."""
    there = torch.cuda.device_count()
    size = settings.devices or there
    if there and size > there:
        raise BadRecipe(
            f"train.devices is {size} and this machine has {there} GPUs.",
            f"Set train.devices={there}, or leave it out.",
        )
    if size < 2:
        raise BadRecipe(
            f"train.parallel={settings.parallel} shares the work, and there is one device.",
            "Set train.parallel=none; or, to share a CPU's cores, train.devices to 2 or more.",
        )
    return size


def _start(rank: int, size: int, port: int) -> WorkerProcess:
    said = tempfile.TemporaryFile()  # noqa: SIM115 closed when the team is dissolved
    words = [sys.executable, "-m", "burnish.train.worker", str(rank), str(size), str(port)]
    # A session of its own: Ctrl-C reaches the leader, which ends the others.
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,
    )
    return WorkerProcess(rank, process, said)


def _wait_for_workers(store: TCPStore, followers: Sequence[WorkerProcess]) -> None:
    """Wait until all have come. Raises RuntimeError if one dies before."""
    keys = [f"here-{follower.rank}" for follower in followers]
    while not store.check(keys):
        if any(follower.exit_description for follower in followers):
            raise RuntimeError("A process died before it had joined.")
        time.sleep(0.05)


def _first_exit(followers: Sequence[WorkerProcess]) -> str:
    """What became of the process that died first; empty if all live."""
    until = time.monotonic() + _GRACE
    while time.monotonic() < until:
        ended = [follower for follower in followers if follower.exit_description]
        if ended:
            # Whoever was killed comes first: the others may only have lost it.
            first = min(ended, key=lambda follower: follower.process.returncode)
            return f"Process {first.rank} of {len(followers) + 1} {first.exit_description}."
        time.sleep(0.05)
    return ""
