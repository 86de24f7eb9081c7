"""The core of `client.responses` as clients write it, and what it means as a chat."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from burnish.serve.errors import RequestError
from burnish.serve.inference.protocol import ChatRequest, ContentPart
from burnish.serve.protocol import ApiModel, Id, Labels, StrictApiModel, Text
from burnish.serve.vector_stores.protocol import ComparisonFilter, CompoundFilter, RankingOptions


class ResponseItem(ApiModel):
    """A message, a call that the model made, what the call gave, a search that was made, or what
    was thought before an answer."""

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
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class TextSettings(ApiModel):
    """How the text comes."""

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
        """The input as items."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return [item.model_dump(exclude_none=True) for item in self.input]

    @property
    def functions(self) -> list[ResponseFunctionTool]:
        """The functions among the tools."""
        return [tool for tool in self.tools or () if isinstance(tool, ResponseFunctionTool)]

    @property
    def searches(self) -> list[FileSearchTool]:
        """What is to be searched; nothing if the client wants no tool, or one function."""
        choice = self.tool_choice
        if choice == "none" or (isinstance(choice, dict) and choice.get("type") == "function"):
            return []
        return [tool for tool in self.tools or () if isinstance(tool, FileSearchTool)]

    def as_chat(self, items: Sequence[Mapping[str, Any]]) -> ChatRequest:
        """The same question as a chat about `items`. Raises Refused, pydantic.ValidationError."""
        items = [item for item in items if item.get("type") not in _SKIPPED_ITEMS]
        told = [{"role": "system", "content": self.instructions}] if self.instructions else []
        body = {
            "model": self.model,
            "messages": [*told, *(_chat_message(item, place) for place, item in enumerate(items))],
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
        """The choice as a chat has it. A search that was made is the call that was required."""
        choice = self.tool_choice
        if self.searches and (choice == "required" or isinstance(choice, dict)):
            return None
        if isinstance(choice, dict) and choice.get("type") == "function":
            return {"type": "function", "function": {"name": choice.get("name")}}
        return choice

    def _chat_response_format(self) -> dict[str, Any] | None:
        wanted = self.text and self.text.format
        if not wanted:
            return None
        if wanted.type != "json_schema":
            return {"type": wanted.type}
        if wanted.schema_ is None:
            raise RequestError("`schema` is missing.", "text.format.schema")
        schema = {"name": wanted.name or "answer", "schema": wanted.schema_}
        return {"type": "json_schema", "json_schema": schema}


def _chat_message(item: Mapping[str, Any], place: int) -> dict[str, Any]:
    """An item as a message of a chat."""
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
        raise RequestError("A message needs a `role`.", f"input.{place}.role")
    content = item.get("content")
    if isinstance(content, list):
        content = [
            {"type": "text", "text": part.get("text")} if part["type"] in _TEXT_PARTS else part
            for part in content
        ]
    return {"role": item["role"], "content": content}


#: Items that are no part of what is said: searches are made anew, thoughts are for one answer.
_SKIPPED_ITEMS = ("file_search_call", "reasoning")
_TEXT_PARTS = ("input_text", "output_text", "text")


def _chat_tool(tool: ResponseFunctionTool) -> dict[str, Any]:
    function = tool.model_dump(exclude={"type"}, exclude_none=True)
    return {"type": "function", "function": function}
