"""Answers by a JSON Schema, of a model that knows nothing about JSON."""

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.records import Message, Prompt
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.grammar import BadSchema, grammar_from_schema
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.models.load import load_tokenizer

CARD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["refund", "parcel", 'é\n"', None]},
        "count": {"type": "integer", "minimum": -3, "maximum": 40},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "kind", "count", "tags"],
    "additionalProperties": False,
}
MESSAGES = (Message("user", "where is my parcel?"),)


@pytest.fixture
def engine(tiny, tiny_model):
    return LocalEngine(MultiLoraModel(tiny_model.eval()), load_tokenizer(tiny), "tiny")


def asked(schema, **settings):
    return Prompt(MESSAGES, max_new_tokens=200, grammar=grammar_from_schema(schema), **settings)


def test_whatever_is_drawn_the_answer_is_valid(engine):
    prompts = [asked(CARD, temperature=1.5, seed=seed) for seed in range(24)]

    answers = engine.answer(prompts)

    for answer in answers:
        jsonschema.validate(json.loads(answer.text), CARD)
        assert answer.finish_reason == "stop"
    assert len({answer.text for answer in answers}) > 20


def test_bound_and_free_answers_do_not_disturb_each_other(engine):
    free = Prompt(MESSAGES, max_new_tokens=20)
    number = asked({"type": "integer", "maximum": 9, "minimum": 0})
    prompts = [free, asked(CARD), number]

    alone = [engine.answer([prompt])[0].text for prompt in prompts]

    assert [answer.text for answer in engine.answer(prompts)] == alone
    assert not alone[0].startswith("{")


def test_an_answer_that_is_cut_says_so(engine):
    text = asked({"type": "string", "minLength": 500})

    answer = engine.answer([text])[0]

    assert answer.finish_reason == "length" and answer.tokens_out == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "foo"},
        {"not": {"type": "string"}},
        {"$ref": "file:///etc/passwd"},
        {"type": "string", "pattern": "("},
        {"anyOf": []},
        {"type": "string", "const": "\ud800"},
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(schema):
    with pytest.raises(BadSchema, match="schema cannot be"):
        grammar_from_schema(schema)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["type", "properties", "items", "anyOf", "$ref", "pattern"])
                | st.text(),
                inner | st.sampled_from(["object", "string", "#"]),
            )
        ),
    )
)
def test_no_schema_breaks_the_reader(anything):
    try:
        assert grammar_from_schema(anything)
    except BadSchema as error:
        assert error.what
