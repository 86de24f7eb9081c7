"""Requests to models and their responses, as OpenAI clients write and read them.

Unknown fields of a request are accepted and ignored, as the hosted API does;
`unsupported.UNSUPPORTED_FIELDS` lists the known ones that cannot be ignored without giving a wrong
answer. Chunks of a stream are TypedDicts: one is built per token.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, SkipValidation
from typing_extensions import TypedDict

from burnish.serve.protocol import ApiModel, ApiObject, OmittedIfNone, Text, limit_total_length

ImageDataUrl = Annotated[str, Field(max_length=2**26)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]

MAX_CHOICES = 16
MAX_PROMPTS = 64
#: Characters of all texts of `guided_choice` together.
MAX_CHOICE_CHARS = 32_000
#: Texts of one embedding request, as in the hosted API.
MAX_TEXTS = 2048


class StreamOptions(ApiModel):
    """What a stream carries besides the text."""

    include_usage: bool | None = None


class ImageUrl(ApiModel):
    """An image as a data URL; `detail` is ignored."""

    url: ImageDataUrl | None = None


class ContentPart(ApiModel):
    """One part of a message's content: text, or an image for a vision-language model."""

    type: str
    text: Text | None = None
    image_url: ImageUrl | ImageDataUrl | None = None


class FunctionCall(ApiModel):
    """The function that the model called, with its arguments as JSON text."""

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
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: FunctionSpec


class JsonSchema(ApiModel):
    """A JSON Schema with its name."""

    name: Text
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(ApiModel):
    """The format that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


#: Parts of one message: texts and images.
MAX_PARTS = 1024


class ChatMessage(ApiModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Annotated[list[ContentPart], Field(max_length=MAX_PARTS)] | None = None
    name: Text | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=128)
    tool_call_id: Text | None = None


class GenerationParams(ApiModel):
    """The fields that chat and plain completions share."""

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
    guided_choice: Annotated[list[Stop], limit_total_length(MAX_CHOICE_CHARS)] | None = Field(
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
    """POST /completions: continue plain text without a chat template."""

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


_Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=100_000)]


class EmbeddingRequest(ApiModel):
    """POST /embeddings."""

    model: Text
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
        | _Tokens
        | Annotated[list[_Tokens], Field(min_length=1, max_length=MAX_TEXTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=2**16)

    @property
    def items(self) -> Sequence[str | list[int]]:
        """The texts, or the tokens of each."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]  # type: ignore[list-item]
        return self.input  # type: ignore[return-value]


FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(TypedDict):
    """Prompt tokens that were found in the prefix cache."""

    cached_tokens: int


class Usage(TypedDict):
    """Tokens of a request; a prompt that is answered several times counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CalledFunction(TypedDict):
    """The function of a tool call; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCallObject(TypedDict):
    """A tool call in a response."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ToolCallDelta(ToolCallObject):
    """A tool call in a chunk."""

    index: int


class Alternative(TypedDict):
    """A token, its log-probability, and its UTF-8 bytes (None for part of a character)."""

    token: str
    bytes: list[int] | None
    logprob: float


class TokenLogprobs(Alternative):
    """A generated token with the likeliest tokens in its place."""

    top_logprobs: list[Alternative]


class ChatLogprobs(TypedDict):
    """Log-probabilities of a chat answer."""

    content: list[TokenLogprobs]
    refusal: None


class CompletionLogprobs(TypedDict):
    """Log-probabilities of a plain completion; offsets count characters from the prompt's start."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AssistantMessage(ApiObject):
    """The answer of a chat."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: OmittedIfNone[str] = None
    tool_calls: OmittedIfNone[list[ToolCallObject]] = None


class ChatChoice(ApiObject):
    """One of the `n` answers to a chat."""

    index: int
    message: AssistantMessage
    logprobs: SkipValidation[ChatLogprobs | None]
    finish_reason: FinishReason


class ChatCompletion(ApiObject):
    """The response to POST /chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(TypedDict, total=False):
    """The part of a message that a chunk adds."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str
    tool_calls: list[ToolCallDelta]


class ChatChunkChoice(TypedDict):
    """What a chunk adds to one of the answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(TypedDict):
    """An event of a streamed chat; `usage` is there with `stream_options.include_usage`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]


class CompletionChoice(TypedDict):
    """One continuation of a prompt, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(ApiObject):
    """The response to POST /completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[SkipValidation[CompletionChoice]]
    usage: Usage


class CompletionChunk(TypedDict):
    """An event of a streamed completion; `usage` as in `ChatCompletionChunk`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]


class EmbeddingObject(ApiObject):
    """The embedding of one text: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens of the embedded texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(ApiObject):
    """The response to POST /embeddings."""

    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


class ModelObject(ApiObject):
    """A model as `GET /models` lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class FineTunedModelObject(ModelObject):
    """A fine-tuned model and its base."""

    root: str
    parent: str | None


class ServedModelObject(FineTunedModelObject):
    """A model that was named when the server started."""

    max_model_len: int


AnyModelObject = ServedModelObject | FineTunedModelObject | ModelObject


class ModelList(ApiObject):
    """The response to GET /models."""

    object: Literal["list"] = "list"
    data: list[AnyModelObject]
