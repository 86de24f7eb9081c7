"""Server, worker and trainer are killed for real, and nothing is lost, doubled or torn."""

import random
import signal
import time

import psutil
import pytest

from burnish.core.runs import Run
from burnish.serve.fine_tuning.worker import JobWorker
from burnish.train.run import train
from tests.fixtures.fine_tuning_server import Server, begin, events, rows, upload, wait

#: Some hundred steps, so that there is something to kill.
LONG = {"n_epochs": 12, "batch_size": 1, "learning_rate_multiplier": 4.0}


def trainers(server):
    """The trainer processes that work in this server's workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            is_trainer = line[1:3] == ["-m", "burnish.serve.fine_tuning.trainer"]
            if is_trainer and str(server.home) in " ".join(line):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_trainer(server):
    for process in trainers(server):
        process.kill()


def kill_server(server):
    """The trainer must not go on alone: the next server starts one of its own."""
    left = trainers(server)
    server.kill()
    assert not psutil.wait_procs(left, timeout=20)[1]
    server.start()


def kill_both(server):
    kill_trainer(server)
    server.restart()


def stop_server(server):
    server.kill(signal.SIGTERM)
    assert not trainers(server)
    server.start()


KILLS = {"trainer": kill_trainer, "server": kill_server, "both": kill_both, "stop": stop_server}


def steps_told(server, job):
    return [e.data["step"] for e in events(server.client, job) if e.type == "metrics"]


def steps_done(server, job):
    """The newest step that was told: asked often, so of the newest page alone."""
    newest = server.client.fine_tuning.jobs.list_events(job, limit=20).data
    return max((event.data["step"] for event in newest if event.type == "metrics"), default=0)


def let_it_get_to(server, job, step):
    """Wait until the job has told of this step, or has ended."""
    for _ in range(2400):
        if steps_done(server, job) >= step or server.client.fine_tuning.jobs.retrieve(
            job
        ).status not in ("validating_files", "queued", "running"):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} never came")


def run_of(server, job):
    return Run(next((server.home / "runs").glob(f"*-{job[-8:]}")))


def check_undisturbed(server, job, folder):
    """The weights are, to the last bit, those of a run that nobody kills."""
    run = run_of(server, job)
    train(run.recipe, out=folder)
    name = "artifact/adapter_model.safetensors"
    assert (run.path / name).read_bytes() == (folder / name).read_bytes()


def check_whole(server, job, steps):
    """One model, each step told once and in order, every answer that was given still true."""
    done = wait(server.client, job)
    assert done.status == "succeeded", done.error
    told = events(server.client, job)
    messages = [event.message for event in told]
    assert steps_told(server, job) == list(range(1, steps + 1))
    ends = ("Created fine-tuning job", "Fine-tuning job started", "New fine-tuned model created")
    for words in ends:
        assert len([m for m in messages if m.startswith(words)]) == 1
    made = [m.id for m in server.client.models.list() if m.id.endswith(job[-8:])]
    assert made == [done.fine_tuned_model]
    jobs = list(server.client.fine_tuning.jobs.list())
    assert len(list((server.home / "runs").iterdir())) == len(jobs), "one job, one run"
    assert server.client.files.content(done.result_files[0]).text.count("\n") == steps + 1
    assert not trainers(server)


@pytest.fixture
def start(tiny, tiny_folder, tmp_path):
    """Start servers on one workspace (and one store); they end with the test."""
    begun = []

    def one(store="", **settings):
        begun.append(Server(tmp_path / "home", tiny_folder, store, **settings))
        return begun[-1]

    yield one
    for server in begun:
        server.end()


@pytest.fixture
def victim(start):
    return start()


def test_killed_in_every_way_the_job_ends_in_the_same_weights(victim, tmp_path):
    file = upload(victim.client, rows(12))
    job = begin(victim.client, training_file=file, seed=3, hyperparameters=LONG)

    for step, kill in ((10, kill_trainer), (50, kill_server), (90, kill_both)):
        let_it_get_to(victim, job, step)
        kill(victim)
        assert victim.client.files.content(file).read() == rows(12)

    check_whole(victim, job, 144)
    check_undisturbed(victim, job, tmp_path / "undisturbed")


def test_a_killed_servers_job_goes_on_at_another_within_a_minute(start, postgres_url, tmp_path):
    servers = [start(postgres_url, lease=JobWorker.lease) for _ in range(2)]
    job = begin(servers[0].client, 12, seed=3, hyperparameters=LONG)
    let_it_get_to(servers[0], job, 10)
    (left,) = trainers(servers[0])
    servers.sort(key=lambda server: server.process.pid == left.ppid())
    other, holder = servers
    holder.kill()
    assert not psutil.wait_procs([left], timeout=20)[1]
    assert steps_done(other, job) < 144

    wait_for_trainer(other, seconds=60)

    # Not `check_whole`: other tests have their jobs in this PostgreSQL too.
    assert wait(other.client, job).status == "succeeded"
    assert steps_told(other, job) == list(range(1, 145))
    check_undisturbed(other, job, tmp_path / "undisturbed")


def wait_for_trainer(server, seconds):
    for _ in range(seconds * 10):
        if found := trainers(server):
            return found
        time.sleep(0.1)
    raise AssertionError(f"no trainer for {seconds} seconds")


@pytest.mark.long
def test_two_servers_on_one_postgresql_share_the_jobs(start, postgres_url):
    first, second = start(postgres_url), start(postgres_url)
    made = [begin(first.client, 12, hyperparameters=LONG) for _ in range(2)]
    for job in made:
        wait(second.client, job, "running")
        let_it_get_to(second, job, 20)
    first.kill()

    for job in made:
        assert wait(second.client, job).status == "succeeded"
        assert steps_told(second, job) == list(range(1, 145))


def test_a_trainer_that_dies_again_and_again_fails_the_job(victim):
    job = begin(victim.client, 40, hyperparameters={"n_epochs": 50, "batch_size": 1})
    for _ in range(2000):
        kill_trainer(victim)
        found = victim.client.fine_tuning.jobs.retrieve(job)
        if found.status == "failed":
            break
        time.sleep(0.05)

    assert found.status == "failed" and found.error.code == "training_process_died"
    assert "signal 9" in found.error.message and "trainer.log" in found.error.message


@pytest.mark.long
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_fifty_kills_at_random_moments_change_nothing(store, start, tmp_path, request):
    server = start(request.getfixturevalue("postgres_url") if store == "postgresql" else "")
    draw, kills = random.Random(store), 0
    while kills < 50:
        job = begin(server.client, 12, seed=3, hyperparameters=LONG)
        for _ in range(5):
            let_it_get_to(server, job, steps_done(server, job) + draw.randint(0, 12))
            time.sleep(draw.random() * 2)
            KILLS[draw.choice(list(KILLS))](server)
            kills += 1
        check_whole(server, job, 144)
        check_undisturbed(server, job, tmp_path / f"undisturbed-{kills}")
