"""What belongs to one organisation is not there for another: every route, every id."""

import re
from types import SimpleNamespace

import httpx
import openai
import pytest

from burnish.core.journal import read_journal
from burnish.serve.auth.keys import ApiKey, ApiKeys
from burnish.serve.store.schema import Database, File, Job, StoredObject, sqlite_url
from tests.fixtures import fine_tuning_server as tuning
from tests.fixtures.server import KEY
from tests.serve.azure.test_router import ACCOUNT, wanted
from tests.serve.inference.test_openai_client import ask
from tests.serve.vector_stores.test_service import send

#: What stands for an id in the published paths → the owner's id of that kind.
PLACES = {
    "/v1/models/{name}": "model",
    "/v1/files/": "file",
    "/v1/uploads/": "upload",
    "/v1/fine_tuning/jobs/": "job",
    "/v1/batches/": "batch",
    "/v1/responses/": "response",
    "/v1/vector_stores/": "store",
    "/subscriptions/": "deployment",
}
#: Bodies that are right in all but the id in the path.
BODIES = {
    "/parts": {"files": {"data": ("p", b"abc")}},
    "/complete": {"json": {"part_ids": ["part_1"]}},
    "/search": {"json": {"query": "a"}},
    "/files": {"json": {"file_id": "file-1"}},
    "/file_batches": {"json": {"file_ids": ["file-1"]}},
}


@pytest.fixture(scope="module")
def two(server):
    """Clients of two organisations."""
    keys = ApiKeys(server.home / "keys.json")
    made = {name: keys.add(ApiKey(name, "", organization=name)) for name in ("acme", "umbrella")}
    clients = [
        openai.OpenAI(base_url=server.address, api_key=value, max_retries=0)
        for value in made.values()
    ]
    yield clients
    for name in made:
        keys.remove(name)


@pytest.fixture(scope="module")
def things(server, two):
    """One of everything that can be made, by the first of the two."""
    mine, _ = two
    job = tuning.wait(mine, tuning.begin(mine))
    store = mine.vector_stores.create(name="acme")
    page = send(mine, "money.md")
    mine.vector_stores.files.create_and_poll(page, vector_store_id=store.id, poll_interval_ms=50)
    files = mine.vector_stores.file_batches.create(vector_store_id=store.id, file_ids=[page])
    upload = mine.uploads.create(
        bytes=3, filename="a.jsonl", mime_type="text/jsonl", purpose="batch"
    )
    part = mine.uploads.parts.create(upload.id, data=b"abc")
    line = {
        "custom_id": "a", "method": "POST", "url": "/v1/completions",
        "body": {"model": "tiny", "prompt": "red", "max_tokens": 1},
    }  # fmt: skip
    requests = tuning.upload(mine, tuning.lines([line]), "batch")
    batch = mine.batches.create(
        input_file_id=requests, endpoint="/v1/completions", completion_window="24h"
    )
    response = mine.responses.create(model="tiny", input="red", max_output_tokens=2)
    address = server.address.removesuffix("/v1")
    httpx.put(
        f"{address}{ACCOUNT}/deployments/acme-desk",
        json=wanted(job.fine_tuned_model),
        headers={"api-key": mine.api_key},
    ).raise_for_status()
    checkpoints = mine.fine_tuning.jobs.checkpoints.list(job.id)
    return SimpleNamespace(
        job=job.id, model=job.fine_tuned_model, training=job.training_file, file=page,
        results=job.result_files[0], store=store.id, files=files.id, upload=upload.id,
        part=part.id, requests=requests, batch=batch.id, response=response.id,
        deployment="acme-desk", checkpoint=list(checkpoints)[-1],
    )  # fmt: skip


def operations(server):
    """Method and path of all that is published and names a thing."""
    address = server.address.removesuffix("/v1")
    schema = httpx.get(f"{address}/openapi.json", headers={"api-key": KEY}).json()
    for path, methods in schema["paths"].items():
        kind = next((kind for place, kind in PLACES.items() if path.startswith(place)), None)
        assert kind or "{name" not in path, f"no test knows what {path} names"
        if "{name" in path:
            yield from ((method.upper(), path, kind) for method in methods)


def answer(server, key, method, path, ids):
    """Status and body of a request, the ids in it blotted out."""
    filled = re.sub(r"\{(\w+)(:path)?\}", lambda found: ids[found[1]], path)
    body = next((body for end, body in BODIES.items() if path.endswith(end)), {})
    if method == "POST" and not body and "cancel" not in path:
        body = {"json": {}}
    got = httpx.request(
        method, server.address.removesuffix("/v1") + filled, headers={"api-key": key}, **body
    )
    said = got.text
    for own in ids.values():
        said = said.replace(own, "?")
    return got.status_code, said


def test_every_route_answers_to_anothers_id_as_to_one_that_is_unknown(server, two, things):
    key, seen = two[1].api_key, 0
    place = {"subscription": "s", "group": "g", "account": "a"}
    for method, path, kind in operations(server):
        own = {"name": getattr(things, kind), "file": things.file, "batch": things.files}
        if kind == "deployment" and method == "PUT":
            continue  # makes one of that name for whoever asks, as the test below says
        unknown = dict.fromkeys(own, "unknown-1")
        theirs = answer(server, key, method, path, {**own, **place})
        nobodys = answer(server, key, method, path, {**unknown, **place})
        assert theirs == nobodys, (method, path)
        assert theirs[0] == (204 if (method, kind) == ("DELETE", "deployment") else 404), path
        if method == "GET":
            assert answer(server, two[0].api_key, method, path, {**own, **place})[0] == 200, path
        seen += 1
    assert seen >= 25


def test_every_id_in_a_body_is_unknown_too(two, things):
    _, other = two

    def refused(call):
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)) as found:
            call("theirs")
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)) as unknown:
            call("unknown")
        assert type(found.value) is type(unknown.value)
        assert found.value.code == unknown.value.code

    def pick(which, own):
        return own if which == "theirs" else "unknown-1"

    jobs = other.fine_tuning.jobs
    good = tuning.upload(other, tuning.rows(12))
    refused(lambda w: jobs.create(model="tiny", training_file=pick(w, things.training)))
    refused(lambda w: jobs.create(
        model="tiny", training_file=good, validation_file=pick(w, things.training)))  # fmt: skip
    refused(lambda w: jobs.create(model=pick(w, things.model), training_file=good))
    refused(lambda w: other.batches.create(
        input_file_id=pick(w, things.requests), endpoint="/v1/completions",
        completion_window="24h"))  # fmt: skip
    refused(lambda w: other.vector_stores.create(file_ids=[pick(w, things.file)]))
    refused(lambda w: other.responses.create(
        model="tiny", input="a", previous_response_id=pick(w, things.response)))  # fmt: skip
    tool = {"type": "file_search"}
    refused(lambda w: other.responses.create(
        model="tiny", input="a",
        tools=[{**tool, "vector_store_ids": [pick(w, things.store)]}]))  # fmt: skip
    for name in (things.model, things.deployment, things.checkpoint.fine_tuned_model_checkpoint):
        refused(lambda w, name=name: ask(other, pick(w, name)))
        refused(lambda w, name=name: other.responses.create(model=pick(w, name), input="a"))
    own = other.uploads.create(bytes=3, filename="a.jsonl", mime_type="text/jsonl", purpose="batch")
    refused(lambda w: other.uploads.complete(own.id, part_ids=[pick(w, things.part)]))
    for listed in (other.files, jobs, other.batches, other.vector_stores):
        refused(lambda w, listed=listed: listed.list(after=pick(w, things.file)))


def test_anothers_model_is_neither_deployed_nor_named(server, two, things):
    mine, other = two
    ask(mine, things.model)  # it is in memory now
    address = f"{server.address.removesuffix('/v1')}{ACCOUNT}/deployments/stolen"
    for model in (things.model, things.checkpoint.id):
        got = httpx.put(address, json=wanted(model), headers={"api-key": other.api_key})
        assert got.status_code == 404 and ":acme:" not in got.text.replace(things.model, "")
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(other, "gpt-9")
    assert "acme" not in unknown.value.message


def test_lists_hold_ones_own_and_what_the_operator_serves(server, two, things):
    mine, other = two

    def names(client):
        lists = (client.files, client.fine_tuning.jobs, client.batches, client.vector_stores)
        return {one.id for listed in lists for one in listed.list()}

    made = {things.file, things.job, things.batch, things.store, things.results}
    assert made <= names(mine)
    for client in (other, server.client):
        assert not made & names(client)
    models = [{model.id for model in client.models.list()} for client in (mine, other)]
    assert things.model in models[0] and things.model not in models[1]
    assert "tiny" in models[0] & models[1] and ask(other, "tiny").choices
    card = mine.models.retrieve(things.model)
    assert card.owned_by == "org-acme" and ":acme:" in things.model
    assert mine.fine_tuning.jobs.retrieve(things.job).organization_id == "org-acme"
    found = tuning.wait(mine, things.job)
    assert b"train_loss" in mine.files.content(found.result_files[0]).read()


def test_a_deployment_of_the_same_name_is_each_ones_own(server, two, things):
    _, other = two
    address = f"{server.address.removesuffix('/v1')}{ACCOUNT}/deployments/{things.deployment}"

    def put():
        return httpx.put(address, json=wanted("tiny"), headers={"api-key": other.api_key})

    assert put().status_code == 201, "it is new"
    assert ask(other, things.deployment).model == "tiny"
    assert ask(two[0], things.deployment).model == things.model


def test_nobody_is_told_that_another_has_asked_the_same(two):
    rules = {"role": "system", "content": "the lamp is red and the parcel is late " * 12}
    asked = [rules, {"role": "user", "content": "red"}]
    mine, theirs = two

    used = [ask(client, messages=asked).usage for client in (mine, mine, mine, theirs, theirs)]

    known = [usage.prompt_tokens_details.cached_tokens > 0 for usage in used]
    assert known == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("header", "code"),
    [("organization", "mismatched_organization"), ("project", "mismatched_project")],
)
def test_a_client_that_says_another_organisation_is_refused(server, two, header, code):
    mine, _ = two
    for right in ("acme", {"organization": "org-acme", "project": "proj_acme"}[header]):
        assert mine.with_options(**{header: right}).models.list().data
    with pytest.raises(openai.AuthenticationError) as refused:
        mine.with_options(**{header: "umbrella"}).models.list()
    assert refused.value.code == code


def test_the_audit_names_the_organisation_and_figures_are_the_operators(server, two):
    mine, _ = two
    sent = {"x-request-id": "acme-1"}
    with pytest.raises(openai.NotFoundError):
        mine.files.retrieve("file-unknown", extra_headers=sent)
    noted = read_journal(server.home / "audit.jsonl")
    (one,) = [entry for entry in noted if entry["request"] == "acme-1"]
    assert (one["organization"], one["key"]) == ("acme", "acme")
    address = server.address.removesuffix("/v1")
    assert httpx.get(f"{address}/metrics", headers={"api-key": mine.api_key}).status_code == 403


def test_a_workers_rows_belong_to_whose_work_it_is(server, things):
    """Also what no request has made: a job's results, a batch's answers."""
    store = Database(sqlite_url(server.home))
    with store.reading() as session:
        for table, own in ((File, things.results), (Job, things.job), (StoredObject, things.batch)):
            found = session.query(table).filter(table.id == own).one()
            assert found.organization == "acme"
    store.close()
