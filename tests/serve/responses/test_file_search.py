"""`file_search` as a tool of `client.responses`, with the unmodified client."""

import openai
import pytest


def tool(store, **settings):
    return {"type": "file_search", "vector_store_ids": [store], **settings}


def ask(client, store, given="refund", searching=None, **settings):
    settings = {"temperature": 0, "max_output_tokens": 12, "model": "tiny", **settings}
    settings.setdefault("tools", [tool(store, **(searching or {}))])
    return client.responses.create(input=given, **settings)


def saying(words):
    """Settings under which the model can say nothing but `words`."""
    schema = {"type": "json_schema", "name": "a", "schema": {"const": words}}
    return {"text": {"format": schema}, "max_output_tokens": 60}


def test_the_store_is_searched_and_the_model_reads_what_was_found(either, filled):
    store, files = filled
    plain = ask(either, store, tools=[])

    answer = ask(either, store, include=["file_search_call.results"])

    search, message = answer.output
    assert (search.type, search.status, search.queries) == (
        "file_search_call", "completed", ["refund"],
    )  # fmt: skip
    best = search.results[0]
    assert (best.filename, best.file_id) == ("money.md", files["money.md"])
    assert "five days" in best.text and best.attributes["kind"] == "md" and 0 < best.score <= 1
    assert message.type == "message" and answer.output_text
    assert answer.usage.input_tokens > plain.usage.input_tokens + 10, "the passages were read"
    assert ask(either, store).output[0].results is None, "only where they are asked for"


def test_a_number_in_the_answer_cites_its_file(either, filled):
    store, files = filled

    answer = ask(either, store, **saying("five days [1], see [9]"))

    (part,) = answer.output[1].content
    (cited,) = part.annotations
    assert (cited.type, cited.file_id, cited.filename) == (
        "file_citation", files["money.md"], "money.md",
    )  # fmt: skip
    assert part.text[cited.index :].startswith("[1]")


def test_a_search_can_be_narrowed(either, filled):
    store, _ = filled
    shown = {"include": ["file_search_call.results"]}

    one = ask(either, store, searching={"max_num_results": 1}, **shown)
    lamps = {"type": "eq", "key": "kind", "value": "txt"}
    only = ask(either, store, searching={"filters": lamps}, **shown)
    none = ask(either, store, searching={"filters": {**lamps, "value": "pdf"}}, **shown)

    assert len(one.output[0].results) == 1
    assert {found.filename for found in only.output[0].results} == {"lamps.txt"}
    assert none.output[0].results == [] and none.output_text


def test_a_stream_tells_of_the_search_and_of_citations(either, filled):
    store, _ = filled
    settings = {"include": ["file_search_call.results"], **saying("[1]")}
    whole = ask(either, store, **settings)

    events = list(ask(either, store, stream=True, **settings))

    assert list(dict.fromkeys(event.type for event in events)) == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.file_search_call.in_progress", "response.file_search_call.searching",
        "response.file_search_call.completed", "response.output_item.done",
        "response.content_part.added", "response.output_text.delta",
        "response.output_text.annotation.added", "response.output_text.done",
        "response.content_part.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    places = {e.item_id: e.output_index for e in events if hasattr(e, "item_id")}
    final = events[-1].response
    assert [places[item.id] for item in final.output] == [0, 1]
    assert final.output_text == whole.output_text
    assert final.output[1].content[0].annotations == whole.output[1].content[0].annotations
    with either.responses.stream(
        model="tiny", input="lamp", tools=[tool(store)], **saying("[1]")
    ) as stream:
        assert "response.file_search_call.completed" in {event.type for event in stream}
        assert stream.get_final_response().output[0].queries == ["lamp"]


def test_a_response_goes_on_and_its_items_can_be_sent_back(either, filled):
    store, _ = filled
    first = ask(either, store)

    second = ask(either, store, "lamp", previous_response_id=first.id)
    items = [{"role": "user", "content": "refund"}, *(item.model_dump() for item in first.output)]
    again = ask(either, store, [*items, {"role": "user", "content": "lamp"}])

    assert second.output[0].queries == ["lamp"] and second.output_text == again.output_text
    assert either.responses.retrieve(first.id).output == first.output


@pytest.mark.parametrize(
    ("choice", "searched"),
    [("auto", True), ("required", True), ({"type": "file_search"}, True), ("none", False)],
)
def test_the_choice_of_a_tool_is_followed(server, filled, choice, searched):
    answer = ask(server.client, filled[0], tool_choice=choice)

    assert [item.type for item in answer.output] == ["file_search_call"] * searched + ["message"]


@pytest.mark.parametrize(
    ("searching", "param"),
    [
        ({"vector_store_ids": []}, "tools.0.file_search.vector_store_ids"),
        ({"max_num_results": 51}, "tools.0.file_search.max_num_results"),
        ({"filters": {"type": "like", "key": "a", "value": "b"}}, "tools.0.file_search.filters"),
        ({"hybrid": True}, "tools.0.file_search.hybrid"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(server, filled, searching, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(server.client, filled[0], searching=searching)

    assert refused.value.param.startswith(param)


def test_an_unknown_store_and_a_question_without_room_are_refused(server, filled):
    with pytest.raises(openai.NotFoundError):
        ask(server.client, "vs_unknown")
    with pytest.raises(openai.BadRequestError) as refused:
        ask(server.client, filled[0], "refund " * 2000)
    assert refused.value.code == "context_length_exceeded"
