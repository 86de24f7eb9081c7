"""The unmodified `openai` client against a real server."""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.fixtures.server import KEY

USER = [{"role": "user", "content": "where is my parcel?"}]
QUESTIONS = ["red", "where is my parcel?", "one two three four five six seven", "the login", "a"]


def ask(client, model="tiny", messages=USER, **settings):
    settings = {"temperature": 0, "max_tokens": 12, **settings}
    return client.chat.completions.create(model=model, messages=messages, **settings)


def said(answer):
    return answer.choices[0].message.content


def test_models_are_listed_once_each_and_can_be_retrieved(client, house):
    listed = [model.id for model in client.models.list()]

    assert listed == [*house.cries, "tiny", "org/gpt-4o-mini"]
    assert client.models.retrieve("org/gpt-4o-mini").id == "org/gpt-4o-mini"
    assert client.models.retrieve(next(iter(house.cries))).parent == "tiny"


def test_a_chat_answer_is_complete(client, house):
    answer = ask(client)
    engine = house.fleet.find("tiny")

    assert answer.object == "chat.completion" and answer.model == "tiny"
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens == 12 and answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer._request_id.startswith("req_")
    assert engine.name == "tiny"


def test_a_run_answers_with_its_adapter_and_the_base_without(client, house):
    for name, cry in [*house.cries.items(), *house.cries.items()]:
        answer = ask(client, name)
        assert said(answer) == cry and answer.choices[0].finish_reason == "stop"
        assert said(ask(client)) == said(ask(client, "org/gpt-4o-mini")) not in house.cries.values()


def test_sixteen_clients_at_once_get_the_answers_they_get_alone(client, house):
    models = [*house.cries, "tiny"]
    jobs = [
        {
            "model": models[i % 3],
            "messages": [{"role": "user", "content": QUESTIONS[i % 5] * (1 + i // 5)}],
        }
        for i in range(16)
    ]
    alone = [said(ask(client, **job, max_tokens=24)) for job in jobs]

    with ThreadPoolExecutor(16) as pool:
        clients = [openai.OpenAI(base_url=f"{house.address}/v1", api_key=KEY) for _ in jobs]
        done = [
            pool.submit(ask, c, **job, max_tokens=24) for c, job in zip(clients, jobs, strict=True)
        ]
        together = [said(job.result()) for job in done]

    assert together == alone
    assert len(set(alone)) > 4


def test_usage_says_how_much_of_a_system_prompt_was_known(client):
    rules = {"role": "system", "content": "the parcel is late and the lamp is red " * 12}
    used = [
        ask(client, messages=[rules, {"role": "user", "content": question}]).usage
        for question in ("red", "blue", "green")
    ]

    known = [usage.prompt_tokens_details.cached_tokens for usage in used]
    assert known[:2] == [0, 0] and 64 < known[2] < used[2].prompt_tokens


def test_a_stream_brings_the_same_text_with_role_reason_and_usage(client):
    whole = ask(client)

    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))

    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == said(whole) and len([text for text in texts if text]) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_async_client_streams_two_models_at_once(house):
    async def talk(model):
        async with openai.AsyncOpenAI(base_url=f"{house.address}/v1", api_key=KEY) as client:
            stream = await ask(client, model, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def both():
        return await asyncio.gather(*[talk(model) for model in house.cries])

    assert asyncio.run(both()) == list(house.cries.values())


def test_a_seed_repeats_n_different_answers(client):
    settings = {"temperature": 1.0, "seed": 7, "n": 3}

    first, second = (ask(client, **settings) for _ in range(2))

    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3 and [c.index for c in first.choices] == [0, 1, 2]
    assert first.usage.completion_tokens == 36
    assert first.usage.prompt_tokens == ask(client).usage.prompt_tokens


def test_temperature_is_1_unless_the_request_says_otherwise(client):
    answers = {
        said(client.chat.completions.create(model="tiny", messages=USER, max_completion_tokens=12))
        for _ in range(4)
    }

    assert len(answers) > 1


def test_a_stop_string_is_not_shown_streamed_or_not(client):
    whole = said(ask(client))
    stop = whole[6:9]

    streamed = "".join(
        c.choices[0].delta.content or "" for c in ask(client, stop=stop, stream=True)
    )

    assert said(ask(client, stop=[stop, "nowhere"])) == streamed == whole[: whole.index(stop)]


def test_logprobs_come_with_each_token_streamed_or_not(client):
    content = ask(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    chunks = ask(client, logprobs=True, top_logprobs=2, stream=True)
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]

    assert [token.token for token in streamed] == [token.token for token in content]
    assert len(content) == 12
    for token in content:
        assert len(token.top_logprobs) == 2
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob)


def test_plain_completions_answer_every_kind_of_prompt(client, house):
    engine = house.fleet.find("tiny")
    text = "where is my parcel?"
    ids = engine.tokenizer(text)["input_ids"]

    def complete(prompt, **settings):
        return client.completions.create(
            model="tiny", prompt=prompt, temperature=0, max_tokens=6, **settings
        )

    one = complete(text).choices[0].text
    assert complete(ids).choices[0].text == one
    other = complete("red").choices[0].text
    both = complete([text, "red"], n=2)
    assert [c.text for c in both.choices] == [one, one, other, other]
    assert [c.text for c in complete([ids, ids]).choices] == [one, one]
    assert "".join(c.choices[0].text for c in complete(text, stream=True)) == one
    logprobs = complete(text, logprobs=2).choices[0].logprobs
    assert "".join(logprobs.tokens) == one
    assert logprobs.text_offset[0] == len(text) and len(logprobs.top_logprobs[0]) == 2


def test_a_choice_can_be_bound_to_given_texts(client):
    labels = ["refund", "parcel", "password"]

    answer = ask(client, extra_body={"guided_choice": labels})

    assert said(answer) in labels and answer.choices[0].finish_reason == "stop"


def test_what_clients_commonly_send_and_we_do_not_know_is_ignored(client):
    known = said(ask(client))

    answer = ask(
        client,
        user="me",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        parallel_tool_calls=True,
        response_format={"type": "text"},
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        extra_body={"top_k": 5, "min_p": 0.1},
        extra_query={"api-version": "preview"},
    )

    assert said(answer) == known


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"50": 5}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"n": 1000}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": "one two three " * 500}]}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(client, settings, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **settings)

    assert caught.value.param == param
    assert len(caught.value.message) > 30


def test_content_parts_and_developer_messages_are_read(client):
    parts = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("where is ", "it?")]},
    ]
    plain = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "where is it?"}]

    assert said(ask(client, messages=parts)) == said(ask(client, messages=plain))


def test_errors_are_the_clients_own_classes(client, house):
    with pytest.raises(openai.NotFoundError) as missing:
        ask(client, "gpt-5")
    with pytest.raises(openai.AuthenticationError) as wrong:
        openai.OpenAI(base_url=f"{house.address}/v1", api_key="nope").models.list()
    with pytest.raises(openai.NotFoundError) as nowhere:
        client.images.generate(prompt="a lamp")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/unknown")

    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    assert wrong.value.code == "invalid_api_key" and KEY not in str(wrong.value)
    assert "/v1/images" in nowhere.value.message


def test_the_recommended_azure_address_works_too(house):
    client = openai.OpenAI(base_url=f"{house.address}/openai/v1/", api_key=KEY)

    assert said(ask(client, "org/gpt-4o-mini"))


def test_a_client_that_leaves_frees_its_place(client, house):
    stream = ask(client, stream=True, max_tokens=900)
    next(iter(stream))
    stream.close()
    quick = openai.OpenAI(base_url=f"{house.address}/v1", api_key=KEY, timeout=0.3, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        ask(quick, max_tokens=900)

    assert said(ask(client)), "the next one is answered"
    scheduler = house.app.state.scheduler
    for _ in range(100):
        if not scheduler.running:
            return
        asyncio.run(asyncio.sleep(0.05))
    raise AssertionError("the abandoned requests are still running")
