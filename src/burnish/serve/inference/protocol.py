"""Requests and answers as OpenAI clients write and read them.

Unknown fields are accepted and ignored, as the hosted API does. `REFUSED` lists the known ones that
cannot be ignored without giving a wrong answer.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from burnish.serve.protocol import ApiModel, Text

ImageDataUrl = Annotated[str, Field(max_length=2**26)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]

MAX_CHOICES = 16
MAX_PROMPTS = 64


class StreamOptions(ApiModel):
    """What a stream carries besides the text."""

    include_usage: bool | None = None


class ImageUrl(ApiModel):
    """A picture as a data URL; `detail` is the model's own affair."""

    url: ImageDataUrl | None = None


class ContentPart(ApiModel):
    """One part of a message's content: text, or a picture where the model sees."""

    type: str
    text: Text | None = None
    image_url: ImageUrl | ImageDataUrl | None = None


class FunctionCall(ApiModel):
    """A function that the model called."""

    name: Text
    arguments: Text = ""


class ToolCall(ApiModel):
    """A tool call in an earlier assistant turn."""

    id: Text = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class FunctionSpec(ApiModel):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None


class FunctionTool(ApiModel):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: FunctionSpec


class JsonSchema(ApiModel):
    """A JSON Schema with its name."""

    name: Text
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(ApiModel):
    """What the answer has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatMessage(ApiModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[ContentPart] | None = None
    name: Text | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None


class GenerationParams(ApiModel):
    """What both kinds of request may say."""

    model: Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    guided_choice: list[Stop] | None = Field(
        None, min_length=1, max_length=1000, description="Answer with exactly one of these texts."
    )

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(GenerationParams):
    """POST /chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: str | dict[str, Any] | None = None


class CompletionRequest(GenerationParams):
    """POST /completions: plain text on, no chat template."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]],
            Field(min_length=1, max_length=MAX_PROMPTS),
        ]
    )
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)


def _is_text_only(value: Any) -> bool:
    return bool(value == ["text"])


def _is_not_forced(value: Any) -> bool:
    return value in ("auto", "none")


def _is_empty(value: Any) -> bool:
    return not value


def _is_one(value: Any) -> bool:
    return bool(value == 1)


#: Fields whose ignoring would give a wrong answer: which values are harmless, and why not others.
UNSUPPORTED_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "function_call": (_is_not_forced, "it is deprecated; use `tool_choice`"),
    "functions": (_is_empty, "`functions` is deprecated and not rendered; use `tools`"),
    "logit_bias": (_is_empty, "tokens cannot be biased"),
    "frequency_penalty": (_is_empty, "there is no repetition penalty"),
    "presence_penalty": (_is_empty, "there is no repetition penalty"),
    "modalities": (_is_text_only, "only text can be answered"),
    "audio": (_is_empty, "only text can be answered"),
    "web_search_options": (_is_empty, "there is no web search"),
    "echo": (_is_empty, "the prompt is not sent back"),
    "suffix": (_is_empty, "text cannot be inserted before a suffix"),
    "best_of": (_is_one, "every answer that is made is sent"),
}


def unsupported_fields(request: GenerationParams) -> list[tuple[str, str]]:
    """Fields of the request that cannot be honoured, each with the reason."""
    values = {name: getattr(request, name, None) for name in UNSUPPORTED_FIELDS}
    return [
        (name, f"`{name}` is not supported with this value: {UNSUPPORTED_FIELDS[name][1]}.")
        for name, value in values.items()
        if value is not None and not UNSUPPORTED_FIELDS[name][0](value)
    ]
