"""An encoder-decoder is served like any model: conversations and plain text, whole and streamed."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from burnish.core.recipe.serve import Serve
from burnish.core.records import Message, Prompt
from burnish.engines.registry import open_engine
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKeys
from tests.fixtures.server import KEY, running


@pytest.fixture
def served(learnt_t5, tiny_t5, tmp_path):
    """The client, and the trained model's name; beside it stand its base and a language model."""
    keys = ApiKeys(tmp_path / "keys.json", KEY)
    fleet = open_model_pool([learnt_t5.artifact, "tiny-t5", "tiny"])
    with running(create_app(fleet, keys, Serve(max_new_tokens=8))) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0), learnt_t5.run


def turns(text):
    return [{"role": "user", "content": text}]


def test_conversations_and_plain_text_are_answered_whole_and_token_by_token(served):
    client, name = served
    said = "plum red blue"

    answer = client.chat.completions.create(model=name, messages=turns(said), temperature=0)
    stream = client.chat.completions.create(
        model=name, messages=turns(said), temperature=0, stream=True
    )
    pieces = [one.choices[0].delta.content for one in stream if one.choices[0].delta.content]
    plain = client.completions.create(model=name, prompt=said, temperature=0, max_tokens=8)

    assert answer.choices[0].message.content == said
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens + 1, "source has its end"
    assert "".join(pieces) == said and len(pieces) > 1
    assert plain.choices[0].text == said
    for other in ("tiny-t5", "tiny"):
        base = client.chat.completions.create(model=other, messages=turns(said), temperature=0)
        assert base.choices[0].message.content != said


def test_it_samples_by_seed_and_keeps_to_choices(served):
    client, name = served

    def draw(seed):
        asked = {"messages": turns("one"), "temperature": 2, "seed": seed, "n": 3}
        answer = client.chat.completions.create(model=name, **asked)
        return [choice.message.content for choice in answer.choices]

    bound = {"guided_choice": ["apple", "two pear one"]}
    chosen = client.chat.completions.create(
        model=name, messages=turns("two pear one"), extra_body=bound
    )

    assert draw(1) == draw(1) and len(set(draw(1) + draw(2))) > 1
    assert chosen.choices[0].message.content == "two pear one"
    told = client.chat.completions.create(
        model=name, messages=turns("red one"), temperature=0, logprobs=True, top_logprobs=2
    ).choices[0]
    assert all(len(one.top_logprobs) == 2 for one in told.logprobs.content)


def test_questions_that_come_together_are_answered_as_if_alone(served, learnt_t5):
    client, name = served
    texts = ["red green blue", "one", "two pear apple", "plum red one", "blue two", "pear"]
    engine = open_engine(learnt_t5.artifact)

    def ask(text):
        asked = {"messages": turns(text), "temperature": 0, "max_tokens": 8}
        return client.chat.completions.create(model=name, **asked).choices[0].message.content

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, texts))

    alone = [
        engine.answer([Prompt((Message("user", text),), max_new_tokens=8)])[0].text
        for text in texts
    ]
    assert together == alone


def test_a_question_that_is_too_long_is_the_clients_fault(served):
    client, name = served

    with pytest.raises(openai.BadRequestError, match="encoder reads 2048"):
        client.chat.completions.create(model=name, messages=turns("red " * 3000))
    assert client.chat.completions.create(model=name, messages=turns("red")).choices
