"""A classifier is served like any model: a conversation in, one of its labels out."""

import openai
import pytest

from burnish.compare.classifier import train_classifier
from burnish.core.recipe.serve import Serve
from burnish.data.load import load
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKeys
from tests.fixtures.server import KEY, running
from tests.fixtures.tickets import WORDS

ASKED = [{"role": "user", "content": "where is my parcel red two"}]


@pytest.fixture
def served(ticket_recipe, tiny_embedder, tmp_path):
    """The client, and the classifier's name; beside it stands a language model."""
    recipe = ticket_recipe(f"rag.embedder={tiny_embedder.name}")
    dataset = load(recipe)
    run = train_classifier(recipe.model_copy(update={"task": dataset.task}), dataset)
    keys = ApiKeys(tmp_path / "keys.json", KEY)
    app = create_app(open_model_pool([run.id, "tiny"]), keys, Serve(max_new_tokens=8))
    with running(app) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0), run.id


def test_a_conversation_is_answered_with_a_label(served):
    client, name = served

    answer = client.chat.completions.create(model=name, messages=ASKED)
    pieces = client.chat.completions.create(model=name, messages=ASKED, stream=True)

    assert answer.choices[0].message.content in WORDS
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == 0
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert said == answer.choices[0].message.content
    other = client.chat.completions.create(model="tiny", messages=ASKED)
    assert other.choices[0].message.content not in WORDS
    assert {name, "tiny"} <= {model.id for model in client.models.list()}


def test_only_the_labels_that_are_asked_for_are_given(served):
    client, name = served
    bound = {"guided_choice": ["refund", "account"]}

    answer = client.chat.completions.create(model=name, messages=ASKED, extra_body=bound)

    assert answer.choices[0].message.content in bound["guided_choice"]
    with pytest.raises(openai.APIError, match="none of the requested labels"):
        unknown = {"guided_choice": ["nothing"]}
        client.chat.completions.create(model=name, messages=ASKED, extra_body=unknown)


def test_plain_text_cannot_be_continued_and_the_server_goes_on(served):
    client, name = served

    with pytest.raises(openai.BadRequestError, match="answers chat messages"):
        client.completions.create(model=name, prompt="where is")
    assert client.chat.completions.create(model=name, messages=ASKED).choices
