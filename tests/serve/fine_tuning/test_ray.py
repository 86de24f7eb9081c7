"""Jobs on a real Ray cluster of two nodes: nodes, server and driver are killed, nothing is lost."""

import time

import psutil
import pytest

from tests.fixtures.fine_tuning_server import Server, begin, events
from tests.fixtures.ray_cluster import two_nodes
from tests.serve.fine_tuning.test_durable_jobs import (
    LONG,
    check_undisturbed,
    check_whole,
    let_it_get_to,
    steps_done,
    trainers,
)


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def server(cluster, tiny_folder, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("ray") / "home", tiny_folder, executor="ray")
    yield server
    server.end()


def node_at_work(cluster, server):
    (trainer,) = trainers(server)
    return cluster.node_of(trainer)


def test_node_and_server_are_killed_and_the_job_ends_in_the_same_weights(
    cluster, server, tiny, tmp_path
):
    job = begin(server.client, 12, seed=3, hyperparameters=LONG)
    let_it_get_to(server, job, 10)
    first = node_at_work(cluster, server)
    cluster.kill(first)
    let_it_get_to(server, job, steps_done(server, job) + 20)
    assert node_at_work(cluster, server) != first
    (left,) = trainers(server)
    server.restart()
    assert not psutil.wait_procs([left], timeout=60)[1], "it ends with the server that began it"

    check_whole(server, job, 144)
    said = [event.message for event in events(server.client, job)]
    assert sum("resumes from its last checkpoint" in message for message in said) == 1
    check_undisturbed(server, job, tmp_path / "undisturbed")


def test_a_job_on_the_cluster_is_paused_resumed_and_cancelled(server):
    jobs = server.client.fine_tuning.jobs
    job = begin(server.client, 40, hyperparameters={"n_epochs": 50, "batch_size": 1})
    let_it_get_to(server, job, 5)

    jobs.pause(job)
    wait_until_free(server)
    stood = steps_done(server, job)
    jobs.resume(job)
    let_it_get_to(server, job, stood + 5)
    jobs.cancel(job)
    wait_until_free(server)

    assert jobs.retrieve(job).status == "cancelled"
    assert jobs.retrieve(job).fine_tuned_model is None


def wait_until_free(server):
    for _ in range(2400):
        if not trainers(server):
            return
        time.sleep(0.05)
    raise AssertionError("the trainer goes on")
