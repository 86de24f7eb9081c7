"""Requests and responses of /responses, and the chat that a request stands for.

Output items are TypedDicts: they are stored, sent in events, and read again as history.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from burnish.serve.errors import RequestError
from burnish.serve.inference.protocol import ChatRequest, ContentPart
from burnish.serve.protocol import ApiModel, ApiObject, Id, Labels, StrictApiModel, Text
from burnish.serve.vector_stores.protocol import ComparisonFilter, CompoundFilter, RankingOptions


class ResponseItem(ApiModel):
    """A message, a function call, the output of a call, a file search, or reasoning."""

    type: Literal[
        "message", "function_call", "function_call_output", "file_search_call", "reasoning"
    ] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Text | list[ContentPart] | None = None
    call_id: Text | None = None
    name: Text | None = None
    arguments: Text | None = None
    output: Text | None = None


class ResponseFunctionTool(ApiModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = None


class FileSearchTool(StrictApiModel):
    """Vector stores that are searched before the model answers."""

    type: Literal["file_search"]
    vector_store_ids: list[Id] = Field(min_length=1, max_length=16)
    max_num_results: int = Field(20, ge=1, le=50)
    filters: ComparisonFilter | CompoundFilter | None = None
    ranking_options: RankingOptions | None = None


class TextFormat(ApiModel):
    """The format that the text must have."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class TextSettings(ApiModel):
    """Settings of the text output."""

    format: TextFormat | None = None


class CreateResponse(ApiModel):
    """POST /responses."""

    model: Text
    input: Text | Annotated[list[ResponseItem], Field(min_length=1, max_length=2048)]
    instructions: Text | None = None
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31)
    previous_response_id: Id | None = None
    store: bool | None = None
    metadata: Labels = None
    tools: (
        list[Annotated[ResponseFunctionTool | FileSearchTool, Field(discriminator="type")]] | None
    ) = Field(None, max_length=128)
    tool_choice: str | dict[str, Any] | None = None
    text: TextSettings | None = None
    include: list[Text] | None = Field(None, max_length=16)
    background: Literal[False] | None = None
    conversation: None = None

    @property
    def items(self) -> list[dict[str, Any]]:
        """The input as a list of items."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return [item.model_dump(exclude_none=True) for item in self.input]

    @property
    def functions(self) -> list[ResponseFunctionTool]:
        """The functions among the tools."""
        return [tool for tool in self.tools or () if isinstance(tool, ResponseFunctionTool)]

    @property
    def searches(self) -> list[FileSearchTool]:
        """The searches to make; none if `tool_choice` is `none` or a function."""
        choice = self.tool_choice
        if choice == "none" or (isinstance(choice, dict) and choice.get("type") == "function"):
            return []
        return [tool for tool in self.tools or () if isinstance(tool, FileSearchTool)]

    def as_chat(self, items: Sequence[Mapping[str, Any]]) -> ChatRequest:
        """Build the chat about `items`. Raises RequestError, pydantic.ValidationError."""
        items = [item for item in items if item.get("type") not in _SKIPPED_ITEMS]
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        body = {
            "model": self.model,
            "messages": [
                *system,
                *(_chat_message(item, index) for index, item in enumerate(items)),
            ],
            "stream": self.stream,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_completion_tokens": self.max_output_tokens,
            "tools": [_chat_tool(tool) for tool in self.functions] or None,
            "tool_choice": self._chat_tool_choice(),
            "response_format": self._chat_response_format(),
        }
        return ChatRequest.model_validate(body)

    def _chat_tool_choice(self) -> Any:
        """Translate `tool_choice`; a search satisfies `required`."""
        choice = self.tool_choice
        if self.searches and (choice == "required" or isinstance(choice, dict)):
            return None
        if isinstance(choice, dict) and choice.get("type") == "function":
            return {"type": "function", "function": {"name": choice.get("name")}}
        return choice

    def _chat_response_format(self) -> dict[str, Any] | None:
        text_format = self.text and self.text.format
        if not text_format:
            return None
        if text_format.type != "json_schema":
            return {"type": text_format.type}
        if text_format.schema_ is None:
            raise RequestError("`schema` is missing.", "text.format.schema")
        schema = {"name": text_format.name or "answer", "schema": text_format.schema_}
        return {"type": "json_schema", "json_schema": schema}


def _chat_message(item: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Translate an item into a message of a chat."""
    kind = item.get("type", "message")
    if kind == "function_call_output":
        return {
            "role": "tool",
            "tool_call_id": item.get("call_id"),
            "content": item.get("output", ""),
        }
    if kind == "function_call":
        function = {"name": item.get("name", ""), "arguments": item.get("arguments", "")}
        call = {"id": item.get("call_id", ""), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if "role" not in item:
        raise RequestError("A message needs a `role`.", f"input.{index}.role")
    content = item.get("content")
    if isinstance(content, list):
        content = [
            {"type": "text", "text": part.get("text")} if part["type"] in _TEXT_PARTS else part
            for part in content
        ]
    return {"role": item["role"], "content": content}


#: Items left out of the chat: searches are made anew, and reasoning belongs to one answer.
_SKIPPED_ITEMS = ("file_search_call", "reasoning")
_TEXT_PARTS = ("input_text", "output_text", "text")


def _chat_tool(tool: ResponseFunctionTool) -> dict[str, Any]:
    function = tool.model_dump(exclude={"type"}, exclude_none=True)
    return {"type": "function", "function": function}


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class FileCitation(TypedDict):
    """The file behind a `[n]` mark in the text; `index` is the character where the mark begins."""

    type: Literal["file_citation"]
    index: int
    file_id: str
    filename: str


class OutputText(TypedDict):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[FileCitation]
    logprobs: list[Any]


class MessageItem(TypedDict):
    """A message of the model."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningText(TypedDict):
    """The text of a reasoning item."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(TypedDict):
    """The model's reasoning before its answer."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningText]


class FunctionCallItem(TypedDict):
    """A function call of the model; `arguments` is JSON text."""

    id: str
    type: Literal["function_call"]
    call_id: str
    status: ItemStatus
    name: str
    arguments: str


class FileSearchResult(TypedDict):
    """A passage that a file search found."""

    file_id: str
    filename: str
    score: float
    text: str
    attributes: dict[str, str | bool | float]


class FileSearchItem(TypedDict):
    """A file search; `results` only if `include` has `file_search_call.results`."""

    id: str
    type: Literal["file_search_call"]
    status: ItemStatus
    queries: list[str]
    results: list[FileSearchResult] | None


OutputItem = MessageItem | ReasoningItem | FunctionCallItem | FileSearchItem


class InputTokensDetails(TypedDict):
    """Prompt tokens that were found in the prefix cache."""

    cached_tokens: int


class OutputTokensDetails(TypedDict):
    """Tokens of reasoning; they are not counted apart and always 0."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(TypedDict):
    """The reason why a response is incomplete."""

    reason: Literal["max_output_tokens"]


ResponseStatus = Literal["in_progress", "completed", "incomplete"]


class ResponseObject(ApiObject):
    """A response. Fields with a default repeat the request where it names them; so do unknown
    fields of the request."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"] = "response"
    created_at: int
    model: str
    status: ResponseStatus
    error: None = None
    incomplete_details: IncompleteDetails | None
    output: list[Annotated[OutputItem, Field(discriminator="type")]]
    usage: ResponseUsage | None
    store: bool
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = Field({})
    parallel_tool_calls: bool | None = True
    previous_response_id: str | None = None
    temperature: float | None = 1.0
    text: dict[str, Any] | None = Field({"format": {"type": "text"}})
    tool_choice: str | dict[str, Any] | None = "auto"
    tools: list[dict[str, Any]] | None = Field([])
    top_p: float | None = 1.0
    truncation: str | None = "disabled"
