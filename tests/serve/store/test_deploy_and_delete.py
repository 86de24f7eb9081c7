"""Two servers that deploy and delete the same model at the same moment, on both stores."""

import threading

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from burnish.serve.errors import RequestError
from burnish.serve.store.jobs import record_checkpoints
from burnish.serve.store.schema import Database
from burnish.serve.store.workspace import Workspace
from tests.serve.store.test_schema import at_once, new_job


@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize("first", ["deploy", "delete"])
def test_of_deploying_and_deleting_a_model_at_once_one_is_refused(
    url, store, jobs, tmp_path, monkeypatch, first, step
):
    """Two servers; the first one stops between its look and its writing until the other is done,
    or has shown that it waits."""
    job = new_job(jobs, status="succeeded", fine_tuned_model="ft:whole")
    with store.writing() as session:
        kept = {"step": 1, "name": "ft:whole:step", "folder": "steps", "metrics": {}}
        record_checkpoints(session, job, [kept])
    model = "ft:whole:step" if step else "ft:whole"
    properties = {"model": {"name": model}}
    desks = [Workspace(store, tmp_path), Workspace(Database(url), tmp_path)]
    works = {
        "deploy": lambda desk: desk.deployments.put("desk", model, {"properties": properties}),
        "delete": lambda desk: desk.delete_model(model),
    }
    last = next(name for name in works if name != first)
    looked, over, refused = threading.Event(), threading.Event(), []

    def in_the_middle(*_):
        if threading.current_thread().name == first:
            looked.set()
            over.wait(1)

    def go(name, desk):
        try:
            works[name](desk)
        except RequestError as error:
            refused.append((name, error.error_code))
        finally:
            over.set()

    event.listen(Session, "before_flush", in_the_middle)
    try:
        threads = [threading.Thread(target=go, args=(name, desk), name=name)
                   for name, desk in zip((first, last), desks, strict=True)]  # fmt: skip
        threads[0].start()
        looked.wait(10)
        threads[1].start()
        for thread in threads:
            thread.join(30)
    finally:
        event.remove(Session, "before_flush", in_the_middle)
        desks[1].store.close()

    code = {"delete": "model_deployed", "deploy": "model_not_found"}[last]
    assert refused == [(last, code)]
    deployed = [one.body["name"] for one in desks[0].deployments.objects.all("deployment")]
    assert deployed == (["desk"] if first == "deploy" else [])


def test_the_same_deployment_may_be_made_by_two_servers_at_once(url, store, tmp_path):
    desks, made = [Workspace(store, tmp_path), Workspace(Database(url), tmp_path)], []

    def put(number):
        model = f"base-{number}"
        settings = {"properties": {"model": {"name": model}}}
        made.append(desks[number].deployments.put(f"desk-{round}", model, settings)[1])

    for round in range(10):  # noqa: B007 - `put` reads it
        at_once(2, put)
    desks[1].store.close()

    assert sorted(made) == [False] * 10 + [True] * 10
