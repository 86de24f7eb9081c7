"""The real starter model: what holds for the tiny one holds for it."""

import pytest

from burnish.core.records import Message, Prompt
from burnish.engines.local.open import open_local_engine
from tests.engines.local.test_engine import exhaustive

pytestmark = pytest.mark.model
ASKED = (
    "What is the capital of France?",
    "Name a colour.",
    "Write one sentence about a parcel that came too late, and one about the weather in May.",
    "hi",
)
LABELS = (
    "card_arrival",
    "card_linking",
    "card_not_working",
    "lost_or_stolen_card",
    "top_up_failed",
)


@pytest.fixture(scope="module")
def engine(starter):
    return open_local_engine("smollm2-135m-instruct")


def test_it_knows_the_capital_of_france(engine):
    prompt = Prompt((Message("user", ASKED[0]),), max_new_tokens=16)

    answer = engine.answer([prompt])[0]

    assert "Paris" in answer.text and answer.finish_reason == "stop"


def test_a_batched_answer_is_the_one_given_alone(engine):
    prompts = [Prompt((Message("user", text),), max_new_tokens=16) for text in ASKED]

    together = [answer.text for answer in engine.answer(prompts)]

    assert together == [engine.answer([prompt])[0].text for prompt in prompts]


def test_the_likeliest_label_is_found(engine):
    prompts = [
        Prompt((Message("user", text),), choices=LABELS)
        for text in ("My new card hasn't come yet.", "Somebody took my card!")
    ]

    found = [answer.text for answer in engine.answer(prompts)]

    assert found == [exhaustive(engine, prompt) for prompt in prompts]
