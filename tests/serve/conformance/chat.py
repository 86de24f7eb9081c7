"""Checks of chat completions, completions and embeddings."""

import base64
import json

import numpy as np
import openai
import pydantic

from tests.fixtures.embedder import WIDTH
from tests.serve.conformance.registry import check, refused

RED = [{"role": "user", "content": "red"}]
CHAT, TEXT, VECTORS = "Chat completions", "Completions", "Embeddings"


class Card(pydantic.BaseModel):
    """What an answer has to be."""

    model_config = pydantic.ConfigDict(extra="forbid")
    count: int = pydantic.Field(ge=0, le=99)
    urgent: bool


FUNCTION = {"name": "refund", "parameters": Card.model_json_schema()}
TOOL = {"type": "function", "function": FUNCTION}
NAMED = {"type": "function", "function": {"name": "refund"}}


def ask(c, **settings):
    settings = {"model": "tiny", "messages": RED, "max_tokens": 6, "temperature": 0, **settings}
    return c.chat.completions.create(**settings)


def said(answer):
    return answer.choices[0].message.content


@check(CHAT, "`id`, `object`, `created`, `model`, `choices`, `usage`")
def an_answer_is_complete(c, w):
    answer = ask(c)
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert answer.created > 1.7e9 and answer.model == "tiny"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].index == 0


@check(CHAT, "nearly the same text at temperature 0", "the very same text at temperature 0")
def temperature_0_repeats_itself(c, w):
    assert said(ask(c)) == said(ask(c))


@check(CHAT, "the same `seed` mostly gives the same text", "the same `seed` gives the same text")
def a_seed_repeats_itself(c, w):
    texts = [said(ask(c, seed=3, temperature=1.5)) for _ in range(2)]
    assert texts[0] == texts[1] != said(ask(c, seed=4, temperature=1.5))


@check(CHAT, "`finish_reason` is `length` where `max_tokens` cuts")
def a_cut_answer_says_length(c, w):
    assert ask(c).choices[0].finish_reason == "length"


@check(CHAT, "`max_completion_tokens` is the newer name of `max_tokens`")
def the_newer_name_of_the_limit_works(c, w):
    assert ask(c, max_tokens=None, max_completion_tokens=3).usage.completion_tokens == 3


@check(CHAT, "`finish_reason` is `stop` at a stop sequence, which is not shown")
def a_stop_sequence_is_not_shown(c, w):
    whole = said(ask(c, max_tokens=12))
    answer = ask(c, max_tokens=12, stop=[whole[4:7]])
    assert said(answer) == whole[: whole.index(whole[4:7])]
    assert answer.choices[0].finish_reason == "stop"


@check(CHAT, "`n` answers, numbered", "the same, up to 16")
def several_answers_are_numbered(c, w):
    assert [one.index for one in ask(c, n=3, temperature=1.0).choices] == [0, 1, 2]


@check(CHAT, "`logprobs` with `top_logprobs` of each token")
def log_probabilities_come_with_tokens(c, w):
    content = ask(c, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(content) == 6 and len(content[0].top_logprobs) == 2 and content[0].logprob <= 0


@check(CHAT, "`developer` takes the place of `system`")
def developer_messages_are_system_messages(c, w):
    texts = [
        said(ask(c, messages=[{"role": role, "content": "be brief"}, *RED]))
        for role in ("system", "developer")
    ]
    assert texts[0] == texts[1]


@check(
    CHAT,
    "content may be a list of parts",
    "text; [images](../guides/vision.md) for a vision-language model, else refused by name",
)
def content_may_be_parts(c, w):
    parts = [{"type": "text", "text": "red"}]
    assert said(ask(c, messages=[{"role": "user", "content": parts}])) == said(ask(c))
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    bad = refused(
        openai.BadRequestError, lambda: ask(c, messages=[{"role": "user", "content": image}])
    )
    assert bad.param == "messages.0.content"


@check(CHAT, "chunks with the same id, the role first, the reason last, then `[DONE]`")
def a_stream_is_the_same_text_in_chunks(c, w):
    chunks = list(ask(c, stream=True))
    assert "".join(k.choices[0].delta.content or "" for k in chunks) == said(ask(c))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1


@check(CHAT, "with `include_usage` a last chunk without choices has the usage")
def a_stream_tells_its_usage(c, w):
    *_, last = ask(c, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == ask(c).usage


@check(CHAT, "the client's `stream()` helper sees events and the whole")
def the_stream_helper_works(c, w):
    with c.chat.completions.stream(
        model="tiny", messages=RED, response_format=Card, max_tokens=90, temperature=1.2, seed=1
    ) as stream:
        kinds = {event.type for event in stream}
        whole = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert isinstance(whole.choices[0].message.parsed, Card)


@check(CHAT, "`json_schema`: the answer is valid", "the same; also without `strict`")
def a_schema_is_followed(c, w):
    answer = c.chat.completions.parse(
        model="tiny", messages=RED, response_format=Card, temperature=1.2, max_tokens=90
    )
    assert isinstance(answer.choices[0].message.parsed, Card)


@check(CHAT, "`json_object` needs the word JSON in a message", "no word is needed")
def any_object_can_be_asked_for(c, w):
    assert said(ask(c, response_format={"type": "json_object"})).startswith("{")


@check(CHAT, "a schema that cannot be followed is a 400")
def a_bad_schema_is_refused(c, w):
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "foo"}}}
    bad = refused(openai.BadRequestError, lambda: ask(c, response_format=shape))
    assert bad.param == "response_format"


@check(CHAT, "a forced function is called with valid arguments; `finish_reason` is `stop`",
       "the same; `finish_reason` is `tool_calls`")  # fmt: skip
def a_named_function_is_called(c, w):
    choice = ask(c, tools=[TOOL], tool_choice=NAMED, max_tokens=90, temperature=1.2).choices[0]
    Card.model_validate_json(choice.message.tool_calls[0].function.arguments)
    assert choice.finish_reason == "tool_calls" and choice.message.content is None


@check(CHAT, "`required` forces some call", "one call")
def some_function_has_to_be_called(c, w):
    choice = ask(c, tools=[TOOL], tool_choice="required", max_tokens=90).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["refund"]


@check(CHAT, "a streamed call brings its arguments in pieces", "in one piece")
def a_call_is_streamed(c, w):
    chunks = list(ask(c, tools=[TOOL], tool_choice="required", max_tokens=90, stream=True))
    calls = [call for k in chunks for call in k.choices[0].delta.tool_calls or ()]
    Card.model_validate_json("".join(call.function.arguments for call in calls))
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@check(CHAT, "the result of a call is sent back with the role `tool`")
def a_call_can_be_answered(c, w):
    call = ask(c, tools=[TOOL], tool_choice="required", max_tokens=90).choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "done"}
    assert said(ask(c, messages=[*RED, call.model_dump(exclude_none=True), result], tools=[TOOL]))


@check(CHAT, "fields that are not known are refused", "they are ignored, as other servers do")
def unknown_fields_do_no_harm(c, w):
    assert said(ask(c, extra_body={"top_k": 3})) == said(ask(c))


@check(CHAT, "`logit_bias` is honoured", "refused by its name: it would be ignored")
def what_cannot_be_honoured_is_refused(c, w):
    bad = refused(openai.BadRequestError, lambda: ask(c, logit_bias={"5": 5}))
    assert bad.param == "logit_bias" and bad.code == "unsupported_value"


@check(CHAT, "a prompt beyond the context is `context_length_exceeded`")
def a_prompt_that_is_too_long_is_refused(c, w):
    long = [{"role": "user", "content": "one two " * 900}]
    bad = refused(openai.BadRequestError, lambda: ask(c, messages=long))
    assert bad.code == "context_length_exceeded"


@check(CHAT, "many requests at once, each with its own answer", clients=("AsyncOpenAI",))
async def many_requests_at_once(c, w):
    import asyncio

    words = ["red", "green", "blue", "where is it?"] * 4
    alone = [said(ask(w.client("OpenAI"), messages=[{"role": "user", "content": x}]))
             for x in words[:4]]  # fmt: skip
    asked = [ask(c, messages=[{"role": "user", "content": x}]) for x in words]
    assert [said(a) for a in await asyncio.gather(*asked)] == alone * 4


@check(CHAT, "an asynchronous stream", clients=("AsyncOpenAI", "AsyncAzureOpenAI"))
async def an_async_stream(c, w):
    stream = await ask(c, stream=True)
    text = "".join([k.choices[0].delta.content or "" async for k in stream])
    assert text == said(ask(w.client("OpenAI")))


@check(TEXT, "plain text goes on without a chat template")
def plain_text_goes_on(c, w):
    answer = c.completions.create(model="tiny", prompt="red", max_tokens=4, temperature=0)
    assert answer.object == "text_completion" and answer.choices[0].text


@check(TEXT, "a list of prompts; a prompt of tokens")
def prompts_may_be_several_or_tokens(c, w):
    many = c.completions.create(model="tiny", prompt=["red", "blue"], max_tokens=3)
    assert [one.index for one in many.choices] == [0, 1]
    assert c.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=3).choices[0].text


@check(TEXT, "16 tokens unless `max_tokens` says otherwise")
def sixteen_tokens_are_the_default(c, w):
    assert (
        c.completions.create(model="tiny", prompt="red", temperature=0).usage.completion_tokens
        <= 16
    )


@check(TEXT, "streamed with the usage at the end")
def completions_are_streamed(c, w):
    chunks = list(c.completions.create(model="tiny", prompt="red", stream=True, max_tokens=4,
                                       stream_options={"include_usage": True}))  # fmt: skip
    assert chunks[-1].usage.completion_tokens <= 4 and chunks[-1].choices == []


@check(VECTORS, "without `encoding_format` the client asks for base64 and decodes it")
def vectors_come_as_floats(c, w):
    vector = c.embeddings.create(model="tiny-embedder", input="red").data[0].embedding
    assert len(vector) == WIDTH and abs(np.linalg.norm(vector) - 1) < 1e-5


@check(VECTORS, "`base64` is little-endian float32")
def base64_is_float32(c, w):
    raw = c.embeddings.create(model="tiny-embedder", input="red", encoding_format="base64")
    own = c.embeddings.create(model="tiny-embedder", input="red", encoding_format="float")
    decoded = np.frombuffer(base64.b64decode(raw.data[0].embedding), "<f4")
    assert np.array_equal(decoded, np.array(own.data[0].embedding, "<f4"))


@check(VECTORS, "`dimensions` shortens the vectors of the newer models", "of every model")
def vectors_can_be_shortened(c, w):
    answer = c.embeddings.create(model="tiny-embedder", input=["a", "b"], dimensions=4)
    assert [len(one.embedding) for one in answer.data] == [4, 4]


@check(VECTORS, "an empty text is a 400")
def an_empty_text_is_refused(c, w):
    make = c.embeddings.create
    assert refused(openai.BadRequestError, lambda: make(model="tiny-embedder", input="")).param


@check(VECTORS, "asynchronous, with the tokens that were read",
       clients=("AsyncOpenAI", "AsyncAzureOpenAI"))  # fmt: skip
async def embeddings_are_counted(c, w):
    answer = await c.embeddings.create(model="text-embedding-3-small", input=["red", "blue"])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 1
    assert json.loads(answer.model_dump_json())["object"] == "list"
