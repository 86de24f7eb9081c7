"""Exported folders behind the API: llama.cpp with several slots, ORT-GenAI and OpenVINO in turn."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import openai
import pytest

from burnish import api
from burnish.core.recipe.serve import Serve
from burnish.engines.external.base import LaunchOptions
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.export.formats.registry import write_export
from burnish.models.artifact import open_artifact
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKeys
from tests.fixtures.fine_tuning_server import KEY
from tests.fixtures.server import running

RUN = "20260101-first"
FORMATS = (("gguf", "f32"), ("gguf-lora", "f32"), ("onnx", "fp32"), ("openvino", "fp16"))


@pytest.fixture(scope="module")
def served(learnt, tmp_path_factory):
    """The run and everything that it can be exported to, served together."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_HOME", str(learnt.home))
        patch.setenv("BURNISH_MODELS", str(learnt.home / "models"))
        first = open_artifact(learnt.runs[RUN].artifact)
        for to, quant in FORMATS:
            write_export(folder / to, first, to, quant)
        sources = [RUN, *(str(folder / to) for to, _ in FORMATS)]
        fleet = open_model_pool(
            sources, {"mine": str(folder / "gguf")}, LaunchOptions(1, 256, slots=3)
        )
    app = create_app(
        fleet, ApiKeys(folder / "keys.json", KEY), Serve(max_batch=8, max_new_tokens=12)
    )
    with running(app) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
        names = [f"{RUN}-{to}-{quant}" for to, quant in FORMATS]
        yield SimpleNamespace(
            client=client, fleet=fleet, app=app, names=names, rows=learnt.rows[RUN], folder=folder
        )
    fleet.close()


def ask(served, model, text, **settings):
    said = [{"role": "user", "content": text}]
    given = {"temperature": 0, "max_tokens": 12, **settings}
    return served.client.chat.completions.create(model=model, messages=said, **given)


def said(answer):
    return answer.choices[0].message.content


def test_every_export_says_what_the_run_says_with_the_same_usage(served):
    for row in served.rows[:6]:
        own = ask(served, RUN, row.prompt[0].content)
        assert said(own) == row.answer
        for name in [*served.names, "mine", str(served.folder / "onnx")]:
            other = ask(served, name, row.prompt[0].content)
            assert said(other) == said(own), name
            assert other.usage == own.usage, name
            assert other.choices[0].finish_reason == own.choices[0].finish_reason == "stop"


def test_many_clients_at_once_get_their_own_answers(served):
    asked = [(name, row) for row in served.rows[:8] for name in served.names]

    with ThreadPoolExecutor(16) as clients:
        texts = [(name, row.prompt[0].content) for name, row in asked]
        answers = list(clients.map(lambda one: ask(served, *one), texts))

    assert [said(answer) for answer in answers] == [row.answer for _, row in asked]
    assert served.app.state.scheduler.running == served.app.state.scheduler.waiting == 0


@pytest.mark.parametrize("place", range(len(FORMATS)))
def test_a_stream_a_stop_string_and_a_length_are_those_of_the_run(served, place):
    row, name = served.rows[0], served.names[place]
    text, stop = row.prompt[0].content, row.answer[3:6]

    pieces = list(ask(served, name, text, stream=True, stream_options={"include_usage": True}))
    words = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    whole = ask(served, RUN, text)
    assert words == row.answer and len(pieces) > 4
    assert pieces[-1].usage == whole.usage

    for settings in ({"stop": [stop]}, {"max_tokens": 2}):
        there, here = ask(served, name, text, **settings), ask(served, RUN, text, **settings)
        assert said(there) == said(here) and there.usage == here.usage
        assert there.choices[0].finish_reason == here.choices[0].finish_reason


@pytest.mark.parametrize("place", range(len(FORMATS)))
def test_seeds_choices_and_log_probabilities_mean_what_they_mean_elsewhere(served, place):
    row, name = served.rows[0], served.names[place]
    text = row.prompt[0].content

    drawn = [said(ask(served, name, text, temperature=1.9, seed=seed)) for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    labels = {"guided_choice": ["plum parcel", row.answer, "one two"]}
    assert said(ask(served, name, text, extra_body=labels)) == row.answer
    here, there = (
        ask(served, model, text, logprobs=True, top_logprobs=2).choices[0].logprobs.content
        for model in (RUN, name)
    )
    assert [one.token for one in there] == [one.token for one in here]
    assert [one.logprob for one in there] == pytest.approx([o.logprob for o in here], abs=0.02)


def test_other_routes_answer_and_a_schema_is_refused(served):
    text = served.rows[0].prompt[0].content
    for name in served.names:
        plain = served.client.completions.create(model=name, prompt=text, max_tokens=3)
        assert plain.usage.completion_tokens <= 3
        card = served.client.models.retrieve(name)
        assert card.parent == "tiny" and card.max_model_len == 256
        with pytest.raises(openai.BadRequestError, match="schema") as refusal:
            ask(served, name, text, response_format={"type": "json_object"})
        assert refusal.value.param == "response_format"
        with pytest.raises(openai.BadRequestError, match="context"):
            ask(served, name, "parcel " * 400)


@pytest.mark.parametrize("place", range(len(FORMATS)))
def test_a_dead_child_costs_the_request_that_it_had_and_no_other(served, place, monkeypatch):
    name, row = served.names[place], served.rows[0]
    engine = served.fleet.find(name)
    real, before = engine.child.stream, engine.restarts

    def dies(path, body):
        os.kill(engine.child._process.pid, signal.SIGKILL)
        engine.child._process.wait()
        return real(path, body)

    monkeypatch.setattr(engine.child, "stream", dies)
    with pytest.raises(openai.InternalServerError, match="Ask again") as failure:
        ask(served, name, "red")

    assert failure.value.status_code == 503 and failure.value.body["type"] == "server_error"
    assert said(ask(served, name, row.prompt[0].content)) == row.answer
    assert engine.restarts == before + 1


def test_a_child_that_died_while_nobody_asked_is_not_missed(served):
    name, row = served.names[0], served.rows[1]
    engine = served.fleet.find(name)
    os.kill(engine.child._process.pid, signal.SIGKILL)
    engine.child._process.wait()

    assert said(ask(served, name, row.prompt[0].content)) == row.answer


def test_what_was_exported_is_talked_to_and_needs_no_self_test(served, known, monkeypatch):
    from burnish.engines.scheduling.isolation_check import check_isolation

    row, folder = served.rows[0], str(served.folder / "gguf-lora")
    chat = api.chat(folder, max_new_tokens=12)
    try:
        assert "".join(chat.ask(row.prompt[0].content)) == row.answer
    finally:
        chat.engine.close()
    monkeypatch.setattr("burnish.engines.scheduling.isolation_check.check_base_isolation", None)
    assert check_isolation([folder]) == []


def test_an_answer_that_nobody_waits_for_ends(served):
    engine, scheduler = served.fleet.find("mine"), served.app.state.scheduler
    stream = ask(served, "mine", "red", stream=True, max_tokens=240, temperature=1.9, seed=3)
    next(iter(stream))
    stream.close()

    ends = time.monotonic() + 20
    while scheduler.running and time.monotonic() < ends:
        time.sleep(0.01)
    assert scheduler.running == 0 and engine.child.alive
