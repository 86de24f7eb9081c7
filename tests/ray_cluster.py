"""A real Ray cluster on this machine: a head without CPUs, and two nodes of one CPU each.

It is kept by a process of its own, `python -m tests.ray_cluster`: it says where its nodes are as a
line of JSON. A line that it reads names a node that was killed; it starts another one, and says
where they are now. All ports are free ones.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

#: Bytes of the smallest store of objects that is enough: nothing goes through it.
STORE = 80 * 2**20
#: Seconds that a busy machine may take to start a node.
PATIENCE = 120


def keep():
    """The cluster, until nobody reads and writes any more."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": STORE}
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, **small})

    def raylet(node):
        return node.all_processes["raylet"][0].process

    nodes = []
    while True:
        while len(nodes) < 2:
            nodes.append(cluster.add_node(num_cpus=1, **small))
        told = {"address": cluster.address, "raylets": [raylet(node).pid for node in nodes]}
        print(json.dumps(told), flush=True)
        dead = sys.stdin.readline()
        if not dead:
            return
        nodes = [node for node in nodes if raylet(node).pid != int(dead)]


class TwoNodes:
    """The cluster as tests see it. `raylets` are the pids of the two nodes' own processes."""

    def __init__(self, keeper):
        self.keeper = keeper
        self._hear()

    def _hear(self):
        assert select.select([self.keeper.stdout], [], [], PATIENCE)[0], "the cluster is too slow"
        told = json.loads(self.keeper.stdout.readline() or "{}")
        assert told, "the cluster has died"
        self.address, self.raylets = told["address"], told["raylets"]

    def node_of(self, process):
        """Which of the two a process runs on."""
        above = {parent.pid for parent in process.parents()}
        return next(pid for pid in self.raylets if pid in above)

    def kill(self, raylet):
        """SIGKILL to all that runs on a node, as if its power was cut; another node comes."""
        lost = [psutil.Process(raylet), *psutil.Process(raylet).children(recursive=True)]
        for process in lost:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.keeper.stdin.write(f"{raylet}\n")
        self.keeper.stdin.flush()
        self._hear()


@contextlib.contextmanager
def two_nodes():
    """The cluster while the block runs; nothing of it is left afterwards."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="burnish-ray-", dir="/tmp")  # its sockets need a short path
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.ray_cluster"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "RAY_TMPDIR": folder},
    )
    try:
        there = TwoNodes(keeper)
        patch.setenv("RAY_ADDRESS", there.address)
        yield there
    finally:
        patch.undo()
        ours = [keeper]
        with contextlib.suppress(psutil.Error):  # it may have died
            ours = [*psutil.Process(keeper.pid).children(recursive=True), keeper]
        for process in ours:
            with contextlib.suppress(psutil.Error):
                process.kill()
        keeper.wait()
        keeper.stdin.close()
        keeper.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    # Ray shows how it fares on stdout too: our lines have one of their own.
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = own
    keep()
