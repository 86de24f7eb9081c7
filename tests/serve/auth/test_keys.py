"""Who may ask for what, and what is noted of it."""

import asyncio
import contextlib
import json
import stat
import time

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from burnish.cli.main import app as command_line
from burnish.core.errors import AlreadyThere, BadRecipe, NotFound
from burnish.core.journal import read_journal
from burnish.serve.auth.keys import ApiKey, ApiKeys, open_keys
from burnish.serve.auth.rate_limit import RateLimiter
from burnish.serve.middleware.guard import route_name
from burnish.serve.middleware.observability import AuditLog
from tests.fixtures.server import KEY
from tests.serve.inference.test_openai_client import ask


@pytest.fixture
def client_with(house):
    """A client with a key that may do what is said."""
    keys = ApiKeys(house.home / "keys.json")

    @contextlib.contextmanager
    def made(**limits):
        value = keys.add(ApiKey("limited", "", **limits))
        try:
            yield openai.OpenAI(base_url=f"{house.address}/v1", api_key=value, max_retries=0)
        finally:
            keys.remove("limited")

    return made


def journal(house):
    return read_journal(house.home / "audit.jsonl")


def test_a_key_is_shown_once_and_only_its_hash_is_kept(workspace, monkeypatch):
    monkeypatch.delenv("BURNISH_API_KEY", raising=False)

    value, again = open_keys().make_first(), open_keys().make_first()

    assert len(value) > 40 and again is None
    assert open_keys().find(value).name == "first" and open_keys().find(value + "x") is None
    assert value not in (workspace / "keys.json").read_text()
    assert stat.S_IMODE((workspace / "keys.json").stat().st_mode) == 0o600
    monkeypatch.setenv("BURNISH_API_KEY", "mine")
    assert open_keys().find("mine").name == "environment"


def test_a_readable_key_of_earlier_versions_goes_on_and_is_not_readable_any_more(
    workspace, monkeypatch
):
    monkeypatch.delenv("BURNISH_API_KEY", raising=False)
    workspace.mkdir()
    (workspace / "api_key").write_text("bk-old\n")

    assert open_keys().make_first() == "bk-old"

    assert open_keys().find("bk-old") and not (workspace / "api_key").exists()


def test_the_command_makes_lists_and_removes_keys(workspace):
    def run(*words):
        return CliRunner().invoke(command_line, ["key", *words])

    made = run("shop", "--model", "ft:*", "--per-minute", "60", "--json")
    value = json.loads(made.stdout)["value"]

    assert open_keys().find(value).models == ["ft:*"]
    assert "per_minute: 60" in run().stdout and value not in run().stdout
    assert isinstance(run("shop").exception, AlreadyThere)
    assert isinstance(run("other", "--route", "nowhere").exception, BadRecipe)
    assert isinstance(run("other", "--organization", "a:b").exception, BadRecipe)
    own = json.loads(run("own", "--organization", "acme", "--most-jobs", "2", "--json").stdout)
    assert open_keys().find(own["value"]).organization == "acme"
    assert "acme" in run().stdout and "most_jobs: 2" in run().stdout
    run("shop", "--remove")
    assert open_keys().find(value) is None
    assert isinstance(run("shop", "--remove").exception, NotFound)


def test_a_model_that_a_key_may_not_use_does_not_exist_for_it(house, client_with):
    mine, other = house.cries
    with client_with(models=[mine]) as client:
        assert [model.id for model in client.models.list()] == [mine]
        assert ask(client, mine).choices[0].message.content == house.cries[mine]
        for call in (lambda: ask(client, other), lambda: client.models.retrieve("tiny")):
            with pytest.raises(openai.NotFoundError) as missing:
                call()
            assert missing.value.code == "model_not_found"
            assert f"Served here: {mine}." in missing.value.message
        with pytest.raises(openai.NotFoundError):
            azure = openai.AzureOpenAI(
                azure_endpoint=house.address, api_version="1", api_key=client.api_key
            )
            ask(azure, other)


def test_a_route_that_a_key_may_not_use_is_forbidden(house, client_with):
    with client_with(routes=["models"]) as client:
        assert client.models.list().data
        with pytest.raises(openai.PermissionDeniedError) as refused:
            ask(client)
    assert refused.value.code == "route_not_allowed"
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    management = "providers/Microsoft.CognitiveServices/accounts/a/deployments/b"
    assert route_name(f"/subscriptions/s/resourceGroups/g/{management}") == "deployments"
    assert route_name(f"/v1/models/{management}") == "models"
    assert route_name("/openai/deployments/a/b/chat/completions") == "chat"
    assert route_name("/openai/deployments/a/embeddings") == "embeddings"
    assert route_name("/openai/v1/files/x") == route_name("/v1/files") == "files"


def test_a_route_that_a_key_may_not_use_is_not_reached_through_another_one(client_with):
    judge = {"type": "score_model", "name": "judge", "model": "tiny",
             "input": [{"role": "user", "content": "Good?"}]}  # fmt: skip
    with client_with(routes=["fine_tuning"]) as client:
        graded = client.fine_tuning.alpha.graders.run(grader=judge, model_sample="a")

    assert graded.reward == 0 and graded.metadata.errors.model_grader_server_error
    assert "may not use `chat`" in graded.metadata.errors.model_grader_server_error_details


def test_a_key_that_asks_too_often_is_told_when_to_come_back(house, client_with):
    with client_with(per_minute=2) as client:
        raw = client.models.with_raw_response.list()
        assert raw.headers["x-ratelimit-limit-requests"] == "2"
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        client.models.list()
        with pytest.raises(openai.RateLimitError) as refused:
            client.models.list()
    assert refused.value.code == "rate_limit_exceeded"
    assert 20 <= int(refused.value.response.headers["retry-after"]) <= 30


def test_a_bucket_fills_evenly():
    rates, key = RateLimiter(), ApiKey("a", "", per_minute=60)

    taken = ["retry-after" not in rates.take(key, now) for now in [0.0] * 61 + [0.5, 1.0, 1.5, 2.1]]

    assert taken == [True] * 60 + [False, False, True, False, True]
    assert rates.take(ApiKey("b", ""), 0.0) == {}


def until(look):
    """What `look` gives as soon as it gives something: notes are written behind the answer."""
    for _ in range(200):
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


def test_the_audit_names_who_did_what_and_nothing_that_was_said(house, client):
    own = {"x-request-id": "mine-a"}
    ask(client, messages=[{"role": "user", "content": "the secret word"}], extra_headers=own)
    wrong = {"authorization": "Bearer wrong", "x-request-id": "mine-b"}
    httpx.get(f"{house.address}/v1/models", headers=wrong)

    def noted(request):
        return until(lambda: [e for e in journal(house) if e["request"] == request])[0]

    asked, refused = noted("mine-a"), noted("mine-b")
    assert (asked["key"], asked["method"], asked["path"], asked["status"]) == (
        "environment", "POST", "/v1/chat/completions", 200,
    )  # fmt: skip
    assert asked["client"] == "127.0.0.1"
    assert (refused["key"], refused["status"]) == (None, 401)
    assert "secret" not in (house.home / "audit.jsonl").read_text()


def test_figures_are_counted_by_route_and_model(house, client):
    def figures():
        page = httpx.get(f"{house.address}/metrics", headers={"authorization": f"Bearer {KEY}"})
        families = text_string_to_metric_families(page.text)
        return {(s.name, *sorted(s.labels.values())): s.value for f in families for s in f.samples}

    before, answer = figures(), ask(client)
    list(ask(client, stream=True))

    def grown(*key):
        return figures().get(key, 0) - before.get(key, 0)

    assert until(lambda: grown("burnish_requests_total", "/chat/completions", "200", "POST") == 2)
    made = answer.usage.completion_tokens
    assert grown("burnish_tokens_total", "completion", "tiny") == 2 * made
    assert figures()["burnish_running",] == 0 and ("burnish_jobs_unfinished",) in before
    assert httpx.get(f"{house.address}/metrics").status_code == 401


def test_readiness_needs_no_key_and_names_what_is_missing(house):
    assert httpx.get(f"{house.address}/readyz").json() == {"status": "ready"}
    scheduler = house.app.state.scheduler
    scheduler._closed = True
    try:
        answer = httpx.get(f"{house.address}/readyz")
    finally:
        scheduler._closed = False

    assert answer.status_code == 503 and answer.json()["waits_for"] == ["models"]


def test_a_search_within_a_response_needs_the_route_of_vector_stores(client_with):
    search = {"type": "file_search", "vector_store_ids": ["vs_any"]}
    with (
        client_with(routes=["responses"]) as client,
        pytest.raises(openai.PermissionDeniedError) as refused,
    ):
        client.responses.create(model="tiny", input="red", tools=[search])

    assert refused.value.code == "route_not_allowed"


def test_a_full_audit_log_becomes_the_one_before(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl", max_bytes=200)

    async def write():
        for number in range(100):
            await log.write(method="POST", path=f"/{number}")

    asyncio.run(write())
    log.close()

    files = [tmp_path / "audit.jsonl", *(tmp_path / f"audit.jsonl.{n}" for n in range(1, 16))]
    assert sorted(tmp_path.iterdir()) == sorted(files), "the oldest are dropped"
    assert [entry["path"] for entry in read_journal(files[0])][-1] == "/99"
    newest_full = [entry["path"] for entry in read_journal(files[1])]
    assert len(newest_full) > 1 and all(file.stat().st_size < 400 for file in files)
