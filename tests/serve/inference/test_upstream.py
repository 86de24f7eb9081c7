"""Another server's models behind our routes: a real second server, and one that misbehaves."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import openai
import pytest

from burnish.core.errors import BadRecipe, NotFound
from burnish.core.recipe.recipe import make_recipe
from burnish.core.recipe.serve import Serve, Upstream
from burnish.core.records import Message
from burnish.engines.remote.upstream import open_upstream, open_upstreams
from burnish.engines.scheduling.model_pool import ModelPool
from burnish.models.chat_template import encode_prompt
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKey, ApiKeys
from burnish.serve.fine_tuning.worker import JobWorker
from burnish.serve.store.schema import Database, sqlite_url
from burnish.serve.store.workspace import Workspace
from tests.fixtures.fine_tuning_server import KEY
from tests.fixtures.server import running
from tests.fixtures.worker_process import Program, words
from tests.serve.test_run import read_until
from tests.stubs.upstream import StubUpstream, serving

USER = [{"role": "user", "content": "where is my parcel?"}]
FIELDS = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip


def ask(client, model="tiny", messages=USER, **settings):
    settings = {"temperature": 0, "max_tokens": 12, **settings}
    return client.chat.completions.create(model=model, messages=messages, **settings)


def said(answer):
    return answer.choices[0].message.content


def client_of(address, key=KEY):
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def front(house, tmp_path_factory):
    """A server that has no weights: all that it serves is answered by `house`."""
    home = tmp_path_factory.mktemp("front")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_HOME", str(house.home))
        patch.setenv("BURNISH_MODELS", str(house.home / "models"))
        patch.setenv("THEIR_KEY", KEY)
        there = {"url": f"{house.address}/v1", "key_from": "THEIR_KEY"}
        table = {name: Upstream(**there) for name in [*house.cries, "tiny"]}
        table["mine"] = Upstream(**there, model="org/gpt-4o-mini", source="tiny")
        engines = open_upstreams(table)
    fleet = ModelPool(dict(engines), {})
    worker = JobWorker(Workspace(Database(sqlite_url(home)), home), tick=0.02)
    app = create_app(
        fleet, ApiKeys(home / "keys.json", KEY), Serve(max_new_tokens=32), worker=worker
    )
    with running(app) as address:
        yield SimpleNamespace(
            address=address, client=client_of(address), app=app, fleet=fleet, home=home
        )
    fleet.close()


def test_an_upstream_says_what_the_model_says_here_with_the_same_usage(front, client, house):
    for name in [*house.cries, "tiny", "mine"]:
        own, other = ask(client, "tiny" if name == "mine" else name), ask(front.client, name)
        assert said(other) == said(own) and other.usage == own.usage and other.model == name
        assert other.choices[0].finish_reason == own.choices[0].finish_reason
        chunks = list(ask(front.client, name, stream=True,
                          stream_options={"include_usage": True}))  # fmt: skip
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == said(own) and chunks[-1].usage == own.usage
        assert len(chunks) > 4, "the text comes as it is made"


def test_many_clients_at_once_get_their_own_adapter(front, house):
    names = [*house.cries, "tiny"] * 6
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: said(ask(front.client, name)), names))

    assert answers == answers[:3] * 6 and answers[:2] == list(house.cries.values())


def test_settings_go_over_as_they_are(front, client):
    warm = {"temperature": 1.5, "seed": 4, "n": 2, "top_p": 0.9}
    here, there = ask(client, **warm), ask(front.client, **warm)
    assert [c.message.content for c in there.choices] == [c.message.content for c in here.choices]

    here, there = (
        ask(one, logprobs=True, top_logprobs=3).choices[0].logprobs.content
        for one in (client, front.client)
    )
    assert [(t.token, t.logprob) for t in there] == [(t.token, t.logprob) for t in here]
    # Two tokens of one text (halves of characters) are one entry in the form of /completions.
    assert [[o.token for o in t.top_logprobs] for t in there] == [
        list(dict.fromkeys(o.token for o in t.top_logprobs)) for t in here
    ]

    stop = said(ask(client))[3:6]
    here, there = ask(client, stop=stop), ask(front.client, stop=stop)
    assert said(there) == said(here) and stop not in said(there)


def test_answers_are_held_to_schemas_functions_and_texts(front, client):
    bound = {"type": "json_schema", "json_schema": {"name": "x", "schema": FIELDS}}
    settings = {"temperature": 1.2, "seed": 3, "max_tokens": 200}
    answer = said(ask(front.client, response_format=bound, **settings))
    assert set(json.loads(answer)) == {"a"}

    tool = {"type": "function", "function": {"name": "refund", "parameters": FIELDS}}
    forced = ask(front.client, tools=[tool], tool_choice="required", **settings).choices[0]
    (call,) = forced.message.tool_calls
    assert call.function.name == "refund" and forced.finish_reason == "tool_calls"
    assert set(json.loads(call.function.arguments)) == {"a"}

    labels = {"guided_choice": ["refund blue seven", "my parcel apple", "plum"]}
    here, there = (ask(one, extra_body=labels) for one in (client, front.client))
    assert said(there) == said(here) and there.usage == here.usage


def test_every_other_route_takes_it_for_one_of_ours(front, client, house):
    name, cry = next(iter(house.cries.items()))
    asked = {"model": "tiny", "prompt": ["red green", "one"], "max_tokens": 5, "temperature": 0}
    here, there = (one.completions.create(**asked) for one in (client, front.client))
    assert [c.text for c in there.choices] == [c.text for c in here.choices]
    assert there.usage == here.usage
    assert front.client.models.retrieve(name).max_model_len == 1024
    answer = front.client.responses.create(model=name, input="red", temperature=0)
    assert answer.output_text == cry

    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": name, "messages": USER, "temperature": 0}}  # fmt: skip
    file = front.client.files.create(file=("b.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = front.client.batches.create(input_file_id=file.id, endpoint=line["url"],
                                        completion_window="24h")  # fmt: skip
    while (batch := front.client.batches.retrieve(batch.id)).status != "completed":
        time.sleep(0.02)
    output = json.loads(front.client.files.content(batch.output_file_id).text)
    assert output["response"]["body"]["choices"][0]["message"]["content"] == cry


def test_keys_context_and_figures_are_ours(front):
    narrow = ApiKeys(front.home / "keys.json").add(ApiKey("narrow", "", models=["mine"]))
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(front.client, messages=[{"role": "user", "content": "parcel " * 1500}])
    assert refusal.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        ask(client_of(front.address, narrow), "tiny")
    figures = front.client._client.get(
        f"{front.address}/metrics", headers={"authorization": f"Bearer {KEY}"}
    ).text
    assert 'burnish_tokens_total{kind="completion",model="mine"}' in figures


def test_a_client_that_leaves_ends_the_answer_over_there(front, house):
    stream = ask(front.client, stream=True, max_tokens=900, temperature=1.9, seed=3)
    next(iter(stream))
    stream.close()

    for app in (front.app, house.app):
        ends = time.monotonic() + 20
        while app.state.scheduler.running and time.monotonic() < ends:
            time.sleep(0.01)
        assert app.state.scheduler.running == 0


@pytest.fixture
def stubbed(tiny, tmp_path):
    """A server whose `tiny` is a stub, and the stub; `open` makes it with other settings."""
    with serving(StubUpstream()) as stub:
        engine = open_upstream("tiny", Upstream(url=stub.url, timeout=0.6))
        fleet = ModelPool({"tiny": engine}, {})
        app = create_app(fleet, ApiKeys(tmp_path / "keys.json", KEY), Serve())
        with running(app) as address:
            yield SimpleNamespace(stub=stub, client=client_of(address), engine=engine, app=app)
        fleet.close()


def test_what_it_is_asked_is_what_the_model_was_trained_on(stubbed):
    assert said(ask(stubbed.client, seed=5, stop=["x"])) == "my parcel"

    body, tokenizer = stubbed.stub.bodies[-1], stubbed.engine.tokenizer
    assert body["prompt"] == encode_prompt(tokenizer, (Message("user", USER[0]["content"]),))
    assert (body["seed"], body["stop"], body["temperature"]) == (5, ["x"], 0)
    assert body["stop_token_ids"] == sorted(stubbed.engine.ends)
    assert "messages" not in body


REFUSALS = [
    ((400, "no such thing"), 400, "upstream_refused", "no such thing"),
    ((422, "no such thing"), 422, "upstream_refused", "no such thing"),
    ((400, "maximum context length exceeded"), 400, "context_length_exceeded", "maximum"),
    ((401, "who are you"), 502, None, "key_from"),
    ((404, "no route"), 502, None, "url"),
    ((429, "slow down"), 429, "rate_limit_exceeded", "slow down"),
    ((500, "boom"), 502, None, "boom"),
    ((503, "loading"), 503, "upstream_unavailable", "loading"),
    ((504, "late"), 504, "upstream_timeout", "late"),
]


@pytest.mark.parametrize(("fault", "status", "code", "words"), REFUSALS)
def test_what_it_refuses_is_said_in_its_words(stubbed, fault, status, code, words):
    stubbed.stub.fault = fault
    for stream in (False, True):
        with pytest.raises(openai.APIError, match=words) as failure:
            list(ask(stubbed.client, stream=stream))
        assert failure.value.code == code
        if not stream:
            assert failure.value.status_code == status
    stubbed.stub.fault = None
    assert said(ask(stubbed.client)) == "my parcel"


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        ({"breaks": True}, 502, "closed the stream"),
        ({"hangs": True}, 504, "sent nothing for 0.6 seconds"),
        ({"pieces": ("no json",)}, 502, "constrain answers to a schema"),
    ],
)
def test_a_stream_that_goes_wrong_is_an_error_and_never_half_an_answer(
    stubbed, trouble, status, words
):
    for name, value in trouble.items():
        setattr(stubbed.stub, name, value)
    bound = {"response_format": {"type": "json_object"}} if "pieces" in trouble else {}
    with pytest.raises(openai.APIStatusError, match=words) as failure:
        ask(stubbed.client, **bound)
    assert failure.value.status_code == status
    chunks = []
    with pytest.raises(openai.APIError, match=words):
        chunks.extend(ask(stubbed.client, stream=True, **bound))
    assert not [c for c in chunks if c.choices[0].finish_reason]


def test_a_text_that_is_none_of_the_choices_is_an_error(stubbed):
    with pytest.raises(openai.APIStatusError, match="'my parcel'") as failure:
        ask(stubbed.client, extra_body={"guided_choice": ["a", "b"]})
    assert failure.value.status_code == 502


def test_a_client_that_leaves_while_nothing_comes_is_noticed(stubbed):
    stubbed.stub.hangs = True
    stubbed.engine.child._client.timeout = 60
    stream = ask(stubbed.client, stream=True)
    next(iter(stream))
    stream.close()

    assert stubbed.stub.left.wait(20)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"model": "llama"}, "has no model `tiny`; it has llama"),
        ({"reads": 1}, "would not get the prompts it was trained on"),
        ({"means": "something else"}, "decodes tokens differently"),
    ],
)
def test_another_model_or_tokenizer_is_found_out_before_it_answers(stubbed, other, words):
    for name, value in other.items():
        setattr(stubbed.stub, name, value)
    with pytest.raises(openai.APIStatusError, match=words) as failure:
        ask(stubbed.client)
    assert failure.value.status_code == 502

    for name, value in {"model": "tiny", "reads": 0, "means": None}.items():
        setattr(stubbed.stub, name, value)
    assert said(ask(stubbed.client)) == "my parcel", "as soon as it is mended"
    assert stubbed.engine.context_length == 512


def test_a_dead_upstream_is_a_503_and_is_back_when_it_is(tiny, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engines = open_upstreams({"tiny": Upstream(url=f"http://127.0.0.1:{port}/v1")})
    app = create_app(ModelPool(dict(engines), {}), ApiKeys(tmp_path / "keys.json", KEY), Serve())
    with running(app) as address, serving(StubUpstream()) as stub:
        with pytest.raises(openai.InternalServerError, match="can't be reached") as failure:
            ask(client_of(address))
        assert (failure.value.status_code, failure.value.code) == (503, "upstream_unavailable")
        engines["tiny"].child.url = stub.url
        assert said(ask(client_of(address))) == "my parcel"
    engines["tiny"].close()


def test_what_cannot_be_an_upstream_is_said_at_the_start(tiny, workspace, monkeypatch):
    with pytest.raises(BadRecipe, match="THEIR_KEY is empty"):
        open_upstream("tiny", Upstream(url="http://there", key_from="THEIR_KEY"))
    with pytest.raises(NotFound):
        open_upstream("desk", Upstream(url="http://there"))
    with pytest.raises(BadRecipe, match="url"):
        make_recipe({}, ["serve.upstream.desk.url=there"])
    with pytest.raises(BadRecipe, match="Did you mean `url`"):
        make_recipe({}, ["serve.upstream.desk.urll=http://there"])


def test_the_command_line_serves_an_upstream(house, tiny, tmp_path, monkeypatch):
    """And says that its own self-test knows nothing of it."""
    monkeypatch.setenv("BURNISH_API_KEY", KEY)
    typed = ["serve", "--upstream", f"tiny={house.address}/v1", "--alias", "desk=tiny",
             "--set", "serve.upstream.tiny.key_from=BURNISH_API_KEY", "--port", "0",
             "--self-test"]  # fmt: skip
    program = Program(words(*typed))
    try:
        assert read_until(program, "(tiny): served by another server, whose isolation")
        assert read_until(program, "tiny is answered by (tiny) at")
        address = read_until(program, r"Serving tiny, desk at (\S+)/v1")
        assert said(ask(client_of(address), "desk")) == said(ask(client_of(house.address)))
    finally:
        program.kill()
        program.wait()
        program.stderr.close()
