"""Requests and answers as OpenAI clients write and read them.

Unknown fields are accepted and ignored, as the hosted API does. `REFUSED` lists the known ones that
cannot be ignored without giving a wrong answer.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from burnish.serve.protocol import Text, Wire

PictureUrl = Annotated[str, Field(max_length=2**26)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Token = Annotated[int, Field(ge=0, lt=2**31)]

MOST_CHOICES = 16
MOST_PROMPTS = 64


class StreamOptions(Wire):
    """What a stream carries besides the text."""

    include_usage: bool | None = None


class ImageUrl(Wire):
    """A picture as a data URL; `detail` is the model's own affair."""

    url: PictureUrl | None = None


class Part(Wire):
    """One part of a message's content: text, or a picture where the model sees."""

    type: str
    text: Text | None = None
    image_url: ImageUrl | PictureUrl | None = None


class Function(Wire):
    """A function that the model called."""

    name: Text
    arguments: Text = ""


class ToolCall(Wire):
    """A tool call in an earlier assistant turn."""

    id: Text = ""
    type: Literal["function"] = "function"
    function: Function


class FunctionSpec(Wire):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None


class FunctionTool(Wire):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: FunctionSpec


class Schema(Wire):
    """A JSON Schema with its name."""

    name: Text
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Wire):
    """What the answer has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class Turn(Wire):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None
    name: Text | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None


class Asked(Wire):
    """What both kinds of request may say."""

    model: Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
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


class ChatRequest(Asked):
    """POST /chat/completions."""

    messages: list[Turn] = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: str | dict[str, Any] | None = None


class CompletionRequest(Asked):
    """POST /completions: plain text on, no chat template."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[Token], Field(min_length=1)]],
            Field(min_length=1, max_length=MOST_PROMPTS),
        ]
    )
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES)


def _only_text(value: Any) -> bool:
    return bool(value == ["text"])


def _not_forced(value: Any) -> bool:
    return value in ("auto", "none")


def _empty(value: Any) -> bool:
    return not value


def _one(value: Any) -> bool:
    return bool(value == 1)


#: Fields whose ignoring would give a wrong answer: which values are harmless, and why not others.
REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "function_call": (_not_forced, "it is deprecated; use `tool_choice`"),
    "functions": (_empty, "`functions` is deprecated and not rendered; use `tools`"),
    "logit_bias": (_empty, "tokens cannot be biased"),
    "frequency_penalty": (_empty, "there is no repetition penalty"),
    "presence_penalty": (_empty, "there is no repetition penalty"),
    "modalities": (_only_text, "only text can be answered"),
    "audio": (_empty, "only text can be answered"),
    "web_search_options": (_empty, "there is no web search"),
    "echo": (_empty, "the prompt is not sent back"),
    "suffix": (_empty, "text cannot be inserted before a suffix"),
    "best_of": (_one, "every answer that is made is sent"),
}


def refusals(asked: Asked) -> list[tuple[str, str]]:
    """Fields of the request that cannot be honoured, each with the reason."""
    values = {name: getattr(asked, name, None) for name in REFUSED}
    return [
        (name, f"`{name}` is not supported with this value: {REFUSED[name][1]}.")
        for name, value in values.items()
        if value is not None and not REFUSED[name][0](value)
    ]
