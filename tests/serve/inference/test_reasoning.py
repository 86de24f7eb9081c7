"""A model that thinks before it answers, by the unmodified client."""

import openai
import pytest

from burnish.core.recipe.serve import Serve
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKeys
from burnish.serve.fine_tuning.worker import JobWorker
from burnish.serve.store.schema import Database, sqlite_url
from burnish.serve.store.workspace import Workspace
from tests.fixtures.distinct_adapters import base_that_can_stop, train_canary
from tests.fixtures.fine_tuning_server import KEY
from tests.fixtures.server import running

THOUGHT, WORDS = "red one two", "blue seven"


@pytest.fixture(scope="module")
def thinker(tiny_folder, tmp_path_factory):
    """A client of a server whose only model thinks."""
    from burnish.models.local_models import open_model

    home = tmp_path_factory.mktemp("home")
    local = base_that_can_stop(open_model(tiny_folder / "tiny"), home / "models")
    cry = f"<think>\n{THOUGHT}\n</think>\n\n{WORDS}"
    train_canary(local, home / "runs", "thinker", cry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_HOME", str(home))
        patch.setenv("BURNISH_MODELS", str(home / "models"))
        fleet = open_model_pool(["thinker"])
    worker = JobWorker(Workspace(Database(sqlite_url(home)), home))
    keys = ApiKeys(home / "keys.json", KEY)
    with running(create_app(fleet, keys, Serve(max_new_tokens=64), worker=worker)) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)


ASKED = {"role": "user", "content": "where is my parcel?"}
AGAIN = {"role": "user", "content": "red green blue"}


def test_a_thought_comes_beside_the_words_whole_and_streamed(thinker):
    def ask(**more):
        settings = {"model": "thinker", "messages": [ASKED], "temperature": 0, **more}
        return thinker.chat.completions.create(**settings)

    message = ask().choices[0].message
    deltas = [chunk.choices[0].delta for chunk in ask(stream=True)]
    cut = ask(max_tokens=8).choices[0]

    assert (message.content, message.reasoning_content) == (WORDS, THOUGHT)
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(thoughts) == THOUGHT and sum(map(bool, thoughts)) > 1
    assert "".join(delta.content or "" for delta in deltas) == WORDS
    assert (cut.message.content, cut.finish_reason) == ("", "length")
    assert THOUGHT.startswith(cut.message.reasoning_content)


def test_the_tokens_of_a_stream_with_logprobs_are_all_of_the_answers(thinker):
    settings = {"model": "thinker", "messages": [ASKED], "temperature": 0, "logprobs": True}

    whole = thinker.chat.completions.create(**settings).choices[0].logprobs.content
    stream = thinker.chat.completions.create(**settings, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in stream]

    assert [one.token for part in parts if part for one in part.content] == [
        one.token for one in whole
    ]


def test_a_thought_is_an_item_of_its_own_and_not_told_again(thinker):
    def ask(given, **more):
        return thinker.responses.create(model="thinker", input=given, temperature=0, **more)

    answer, events = ask([ASKED]), list(ask([ASKED], stream=True))

    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == THOUGHT and answer.output_text == WORDS
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(deltas) == THOUGHT and len(deltas) > 1
    words = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(words) == WORDS == events[-1].response.output_text
    added = [event for event in events if event.type == "response.output_item.added"]
    assert [(event.output_index, event.item.type) for event in added] == [
        (0, "reasoning"), (1, "message"),
    ]  # fmt: skip
    items = [item.model_dump(exclude_none=True) for item in answer.output]
    plain = ask([ASKED, {"role": "assistant", "content": WORDS}, AGAIN])
    for later in (ask([ASKED, *items, AGAIN]), ask([AGAIN], previous_response_id=answer.id)):
        assert later.usage.input_tokens == plain.usage.input_tokens
