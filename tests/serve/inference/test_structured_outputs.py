"""`response_format` and `tools` of the unmodified client; the model knows nothing of either."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pydantic
import pytest

from burnish.serve.inference.tool_calls import AnswerParser, parse_answer
from tests.serve.inference.test_openai_client import ask, said


class Card(pydantic.BaseModel):
    """What an answer has to be."""

    model_config = pydantic.ConfigDict(extra="forbid")
    count: int = pydantic.Field(ge=0, le=99)
    urgent: bool


TOOL = {
    "type": "function",
    "function": {
        "name": "refund",
        "description": "Pay back an order.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "integer", "minimum": 1, "maximum": 99}},
            "required": ["order"],
            "additionalProperties": False,
        },
    },
}
OTHER = {"type": "function", "function": {"name": "wait"}}
NAMED = {"type": "function", "function": {"name": "refund"}}


def schema(content, name="card"):
    return {"type": "json_schema", "json_schema": {"name": name, "schema": content}}


def warm(client, **settings):
    return ask(client, temperature=1.3, max_tokens=90, **settings)


def test_the_clients_own_parser_gets_its_record(client, house):
    for seed in range(8):
        answer = client.chat.completions.parse(
            model="tiny",
            messages=[{"role": "user", "content": "red"}],
            response_format=Card,
            temperature=1.3,
            seed=seed,
            max_tokens=90,
        )
        assert isinstance(answer.choices[0].message.parsed, Card)
        assert answer.choices[0].finish_reason == "stop"


def test_an_adapter_answers_by_the_schema_and_others_are_as_free_as_before(client, house):
    for name, cry in house.cries.items():
        answer = said(warm(client, model=name, response_format=schema(Card.model_json_schema())))
        Card.model_validate_json(answer)
        assert said(ask(client, name)) == cry


def test_any_object_is_an_object(client):
    answer = ask(client, response_format={"type": "json_object"}, max_tokens=400, temperature=1.0)

    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(said(answer)), dict)
    assert said(answer).startswith("{")


def test_a_stream_says_the_same_as_the_whole(client):
    settings = {"response_format": schema(Card.model_json_schema()), "seed": 4}
    chunks = list(warm(client, stream=True, **settings))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert text == said(warm(client, **settings))
    Card.model_validate_json(text)
    assert len(chunks) > 4, "the text comes as it is made"


def test_an_answer_that_is_cut_ends_with_length(client):
    answer = ask(client, response_format=schema({"type": "string", "minLength": 99}), max_tokens=5)

    assert answer.choices[0].finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="tiny", messages=[{"role": "user", "content": "a"}],
            response_format=Card, max_tokens=1,
        )  # fmt: skip


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_forced_call_is_a_call_with_arguments_by_the_schema(client, choice):
    for seed in range(5):
        answer = warm(client, tools=[TOOL], tool_choice=choice, seed=seed).choices[0]
        (call,) = answer.message.tool_calls
        assert answer.message.content is None and answer.finish_reason == "tool_calls"
        assert call.function.name == "refund" and call.id.startswith("call_")
        assert 1 <= json.loads(call.function.arguments)["order"] <= 99


def test_a_forced_call_is_streamed(client):
    settings = {"tools": [TOOL, OTHER], "tool_choice": NAMED, "seed": 1}
    whole = warm(client, **settings).choices[0].message.tool_calls[0].function
    chunks = list(warm(client, stream=True, **settings))

    (call,) = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]

    assert (call.index, call.function) == (0, type(call.function)(**whole.model_dump()))
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_result_of_a_call_can_be_sent_back(client):
    call = warm(client, tools=[TOOL], tool_choice="required").choices[0].message
    messages = [
        {"role": "user", "content": "refund order 7"},
        call.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "done"},
    ]

    answer = ask(client, messages=messages, tools=[TOOL])

    assert said(answer)
    without = ask(client, messages=[messages[0], messages[2]], tools=[TOOL])
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens, "the model reads its call"


def test_a_model_may_answer_in_words(client):
    free = ask(client, tools=[TOOL], tool_choice="none")
    assert said(free) == said(ask(client)) and free.choices[0].finish_reason == "length"
    words = ask(client, tools=[TOOL])

    streamed = ask(client, tools=[TOOL], stream=True)

    assert "".join(c.choices[0].delta.content or "" for c in streamed) == said(words)
    assert words.choices[0].message.tool_calls is None
    assert words.usage.prompt_tokens > free.usage.prompt_tokens, "the model is told of its tools"


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"response_format": schema({"type": "foo"})}, "response_format"),
        ({"response_format": schema({"$ref": "file:///etc/passwd"})}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]},
         "tools.0.function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
         "tool_choice"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"guided_choice": ["a"]}},
         "guided_choice"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_its_name(client, settings, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **settings)

    assert refused.value.param == param


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        ('{"name": "refund", "arguments": {"order": 3}}', "", 1),
        ('{"name": "refund", "parameters": {"order": 3}}', "", 1),
        ('[{"name": "refund", "arguments": {}}, {"name": "refund", "arguments": {}}]', "", 2),
        ('Sure.\n<tool_call>\n{"name": "refund", "arguments": {"order": 3}}\n</tool_call>',
         "Sure.", 1),
        ('<tool_call>{"name": "refund"}</tool_call>\n<tool_call>{"name": "refund"}</tool_call>',
         "", 2),
        ('{"name": "unknown", "arguments": {}}', None, 0),
        ('{"order": 3}', None, 0),
        ("<tool_call>{broken", None, 0),
        ("[1, 2]", None, 0),
        ("3 < 4", None, 0),
    ],
)  # fmt: skip
def test_calls_are_read_in_the_forms_that_models_write_and_nothing_is_lost(answer, text, calls):
    found = parse_answer(answer, {"refund"})
    watch = AnswerParser(with_calls=True)
    shown = "".join(watch.feed(letter)[1] for letter in answer)

    assert found.text == (answer if text is None else text) and len(found.calls) == calls
    assert answer.startswith(shown), "what is shown is never taken back"
    assert "<tool" not in shown and not shown.startswith(("{", "["))
    assert shown.strip() == found.text or not calls


def test_a_call_behind_a_thought_is_a_call():
    call = '{"name": "refund", "arguments": {}}'

    found = parse_answer(f"<think>\nrefund?\n</think>\n\n{call}", {"refund"})

    assert (found.reasoning, found.text, len(found.calls)) == ("refund?", "", 1)


def test_a_schema_that_never_ends_compiling_is_refused_while_others_are_answered(client):
    patterns = [{"type": "string", "pattern": f".*a.{{{n}}}b.*"} for n in range(24)]
    endless = schema({"allOf": patterns})

    with ThreadPoolExecutor(4) as threads:
        hostile = [threads.submit(ask, client, response_format=endless) for _ in range(2)]
        while not all(one.done() for one in hostile):
            assert said(ask(client, max_tokens=2))

    for one in hostile:
        with pytest.raises(openai.BadRequestError, match="seconds of processor time") as refused:
            one.result()
        assert refused.value.param == "response_format"


def test_half_a_character_in_a_call_is_left_as_an_escape():
    answer = r'{"name": "refund", "arguments": {"order": "\ud800"}}'

    (call,) = parse_answer(answer, {"refund"}).calls

    assert call["function"]["arguments"].encode() == rb'{"order": "\ud800"}'
