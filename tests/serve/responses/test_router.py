"""`client.responses` of the unmodified client."""

import json

import openai
import pytest

from tests.serve.inference.test_openai_client import ask as chat
from tests.serve.inference.test_openai_client import said
from tests.serve.inference.test_structured_outputs import TOOL, Card

FUNCTION = {"type": "function", "strict": True, **TOOL["function"]}


@pytest.fixture(params=["openai", "azure"])
def either(request, house, client):
    if request.param == "openai":
        return client
    return openai.AzureOpenAI(
        azure_endpoint=house.address, api_version="2025-03-01", api_key=client.api_key
    )


def ask(client, given="where is my parcel?", **settings):
    settings = {"temperature": 0, "max_output_tokens": 12, "model": "tiny", **settings}
    return client.responses.create(input=given, **settings)


def test_a_response_says_what_a_chat_says(either, client):
    answer = ask(either)

    assert answer.output_text == said(chat(client))
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens == 12 and answer.usage.input_tokens > 0
    assert answer.id.startswith("resp_") and answer.output[0].role == "assistant"


def test_an_adapter_answers_to_the_end(either, house):
    for name, cry in house.cries.items():
        answer = ask(either, model=name)
        assert answer.output_text == cry and answer.status == "completed"


def test_instructions_and_messages_are_a_chats_messages(either, client):
    messages = [{"role": "user", "content": [{"type": "input_text", "text": "red"}]}]
    system = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "red"}]

    assert ask(either, messages, instructions="be brief").output_text == said(
        chat(client, messages=system)
    )


def test_a_stream_tells_each_step_and_ends_with_the_whole(either):
    whole = ask(either)
    events = list(ask(either, stream=True))

    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert events[-1].response.usage == whole.usage


def test_the_clients_own_stream_helper_follows(either, house):
    name = next(iter(house.cries))
    with either.responses.stream(model=name, input="red", temperature=0) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == house.cries[name]


def test_one_response_goes_on_from_another(either, client):
    first = ask(either, "red")
    second = ask(either, "green", previous_response_id=first.id)

    turns = [("user", "red"), ("assistant", first.output_text), ("user", "green")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert second.output_text == said(chat(client, messages=messages))
    assert second.previous_response_id == first.id
    assert either.responses.retrieve(second.id).output_text == second.output_text
    either.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        ask(either, "green", previous_response_id=first.id)
    kept = ask(either, "red", store=False)
    with pytest.raises(openai.NotFoundError):
        either.responses.retrieve(kept.id)


def test_the_clients_own_parser_gets_its_record(either):
    answer = either.responses.parse(
        model="tiny", input="red", text_format=Card, temperature=1.2, max_output_tokens=90
    )

    assert isinstance(answer.output_parsed, Card)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "refund"}])
def test_a_function_is_called_and_its_result_sent_back(either, choice):
    settings = {"tools": [FUNCTION], "max_output_tokens": 90}
    answer = ask(either, "refund 7", tool_choice=choice, **settings)
    (call,) = answer.output
    assert call.type == "function_call" and 1 <= json.loads(call.arguments)["order"] <= 99

    items = [
        {"role": "user", "content": "refund 7"},
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "done"},
    ]
    after = ask(either, items, **settings)
    result = [items[-1]]
    going_on = ask(either, result, previous_response_id=answer.id, **settings)

    assert after.output_text == going_on.output_text
    events = list(ask(either, "refund 7", tool_choice=choice, stream=True, **settings))
    done = next(e for e in events if e.type == "response.function_call_arguments.done")
    assert (done.name, done.arguments) == ("refund", call.arguments)
    assert not any(e.type == "response.output_text.delta" for e in events)
    assert events[-1].response.output[0].arguments == call.arguments


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"given": []}, "input"),
        ({"given": [{"content": "a"}]}, "input.0.role"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(client, settings, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **settings)

    assert refused.value.param.startswith(param)
