"""A disk that is full, a folder that is read-only: a clear error, and nothing is lost."""

import contextlib
import errno
import json
import subprocess
import sys
from types import SimpleNamespace

import openai
import pytest
from sqlalchemy import event

from burnish.core.errors import StorageFailed
from burnish.core.recipe.serve import Serve
from burnish.core.runs import Run
from burnish.engines.scheduling.model_pool import ModelPool
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKeys
from burnish.serve.fine_tuning.worker import JobWorker
from burnish.serve.store import files
from burnish.serve.store.jobs import JobEvent
from burnish.serve.store.schema import Database, Job, JobEventRow, sqlite_url
from burnish.serve.store.workspace import Workspace
from burnish.train.loop.resource_errors import resource_errors
from tests.fixtures import fine_tuning_server as tuning
from tests.fixtures.bubblewrap import needs_sandbox
from tests.fixtures.server import running

READ_ONLY, FULL = "PRAGMA query_only=ON", "PRAGMA max_page_count=1"


@pytest.fixture
def desk(tmp_path):
    home = tmp_path / "home"
    desk = Workspace(Database(sqlite_url(home)), home)
    yield desk
    desk.store.close()


@pytest.fixture
def served(desk, tiny):
    """A server whose worker looks once an hour."""
    worker = JobWorker(desk, tick=3600)
    app = create_app(
        ModelPool({}, {}), ApiKeys(desk.home / "k.json", tuning.KEY), Serve(), worker=worker
    )
    with running(app) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=tuning.KEY, max_retries=0)
        yield SimpleNamespace(client=client, desk=desk)


@contextlib.contextmanager
def every_transaction(desk, words):
    """SQLite itself refuses to write."""
    said = [words]

    def begin(connection):
        connection.exec_driver_sql(said[0])

    event.listen(desk.store._engine, "begin", begin)
    yield
    said[0] = "PRAGMA query_only=OFF" if words == READ_ONLY else "PRAGMA max_page_count=1000000"
    # A connection that may not write would refuse BEGIN IMMEDIATE before it is told otherwise.
    desk.store._engine.dispose()


def refused(call, words):
    with pytest.raises(openai.InternalServerError, match=words) as failure:
        call()
    body = failure.value.body
    assert failure.value.status_code == 507
    assert (body["type"], body["code"]) == ("server_error", "storage_unavailable")
    assert "nothing of this request was kept" in body["message"] and "/" not in body["message"]


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "cannot be written"), (errno.ENOSPC, "disk is full")]
)
def test_an_upload_that_cannot_be_kept_leaves_nothing(served, monkeypatch, number, words):
    @contextlib.contextmanager
    def gives_out(path):
        with real(path) as draft:
            yield draft
            raise OSError(number, "no", str(path))

    real = files.atomic_file
    kept = tuning.upload(served.client, tuning.rows(10))
    monkeypatch.setattr(files, "atomic_file", gives_out)
    refused(lambda: tuning.upload(served.client, tuning.rows(12)), words)
    monkeypatch.undo()

    assert [file.id for file in served.client.files.list()] == [kept]
    assert [file.stem for file in (served.desk.home / "files").iterdir()] == [kept]
    assert tuning.upload(served.client, tuning.rows(12))


@pytest.mark.parametrize(
    ("pragma", "words"), [(READ_ONLY, "cannot be written"), (FULL, "disk is full")]
)
def test_a_store_that_cannot_be_written_keeps_what_it_has(served, pragma, words):
    client = served.client
    kept, lines = (tuning.upload(client, tuning.rows(10), p) for p in ("fine-tune", "batch"))
    batch = {"input_file_id": lines, "completion_window": "24h", "endpoint": "/v1/completions"}
    filled = {"metadata": {str(n): "x" * 500 for n in range(16)}}
    with every_transaction(served.desk, pragma):
        refused(lambda: client.batches.create(**batch, **filled), words)
        refused(
            lambda: client.fine_tuning.jobs.create(model="tiny", training_file=kept, **filled),
            words,
        )
        assert client.files.retrieve(kept).id == kept, "what is there is still read"

    assert not list(client.batches.list()) and not list(client.fine_tuning.jobs.list())
    assert client.batches.create(**batch, **filled).id
    assert client.fine_tuning.jobs.create(model="tiny", training_file=kept, **filled).id


@needs_sandbox
def test_a_server_in_a_read_only_workspace_says_so_and_does_not_start(tiny, workspace):
    Database(sqlite_url(workspace)).close()
    walls = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(workspace), str(workspace)]
    words = [sys.executable, "-m", "burnish", "serve", "tiny", "--port", "0"]

    ended = subprocess.run([*walls, *words], capture_output=True, text=True, timeout=100)

    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "The store cannot be opened" in ended.stderr and "writable" in ended.stderr


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_training_whose_disk_gives_out_says_so_in_one_sentence(number):
    with pytest.raises(StorageFailed, match="then: go on"), resource_errors("then: go on"):
        raise OSError(number, "no", "step-3")


def test_a_job_whose_disk_gave_out_is_paused_with_the_reason_and_can_be_resumed(desk):
    job = Job(
        id="ftjob-1", status="running", model="tiny", base="tiny", seed=1, training_file="file-1",
        method="supervised", asked={}, hyperparameters={}, run="run-1",
    )  # fmt: skip
    desk.jobs.add(job, [JobEvent("created", "made")])
    worker = JobWorker(desk)
    held = desk.jobs.claim(("running",), "w", 15)
    outcome = desk.home / "outcome.json"
    told = {"kind": "StorageFailed", "what": "The disk is full: x.", "fix": "Free some space"}
    outcome.write_text(json.dumps(told))

    worker._handle_early_exit(held, Run(desk.home / "run"), outcome, 1)

    assert desk.jobs.find(job.id).status == "paused"
    assert desk.jobs.find(job.id).error is None
    events, _ = desk.jobs.page_children(JobEventRow, job.id, None, 10)
    assert events[0].level == "error" and "The disk is full" in events[0].message
    desk.jobs.release(job.id, "w")
    desk.jobs.transition(job.id, "resume")
    assert desk.jobs.claim(("queued",), "other", 15).id == job.id
