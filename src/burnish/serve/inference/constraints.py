"""The constraint on an answer: a JSON Schema, or a forced tool call."""

from collections.abc import Mapping, Sequence
from typing import Any

from burnish.engines.local.grammar import BadSchema, grammar_from_schema
from burnish.serve.errors import RequestError
from burnish.serve.inference.protocol import (
    ChatRequest,
    FunctionSpec,
    FunctionTool,
    GenerationParams,
)

_OBJECT: Mapping[str, Any] = {"type": "object"}


def answer_grammar(request: GenerationParams) -> str:
    """Return the grammar that the answer must follow; empty for free text.

    Raises RequestError for constraints that exclude each other, and for a schema that is invalid or
    too hard to compile.
    """
    tools = forced_tools(request)
    schema, param = _requested_schema(request), "response_format"
    if tools and schema is not None:
        raise RequestError("A forced tool call cannot have a `response_format` too.", "tool_choice")
    if tools:
        schema, param = {"anyOf": [_call_schema(tool) for tool in tools]}, "tools"
    if schema is None:
        return ""
    if request.guided_choice:
        raise RequestError("`guided_choice` and a schema exclude each other.", "guided_choice")
    try:
        return grammar_from_schema(schema, compact=bool(tools))
    except BadSchema as error:
        raise RequestError(str(error), param, "invalid_schema") from error


def is_constrained(request: GenerationParams) -> bool:
    """Return whether the answer must follow a grammar. Raises RequestError."""
    return bool(forced_tools(request)) or _requested_schema(request) is not None


def forced_tools(request: GenerationParams) -> Sequence[FunctionTool]:
    """Return the tools of which one must be called; none if the model may answer in text.

    Raises RequestError for a choice that is not among the tools.
    """
    if not isinstance(request, ChatRequest):
        return ()
    choice = request.tool_choice
    if choice in (None, "none", "auto"):
        return ()
    if choice == "required":
        if not request.tools:
            raise RequestError("`tool_choice` is `required` and there are no tools.", "tool_choice")
        return request.tools
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if isinstance(choice, str) or choice.get("type") != "function" or not isinstance(name, str):
        message = (
            '`tool_choice` must be none, auto, required or {"type": "function", "function": {...}}.'
        )
        raise RequestError(message, "tool_choice", "invalid_value")
    chosen = [tool for tool in request.tools or () if tool.function.name == name]
    if not chosen:
        raise RequestError("The function of `tool_choice` is not among the tools.", "tool_choice")
    return chosen


def _requested_schema(request: GenerationParams) -> Mapping[str, Any] | None:
    response_format = request.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return _OBJECT
    if response_format.json_schema is None:
        raise RequestError("`json_schema` is missing.", "response_format.json_schema")
    return response_format.json_schema.schema_ or _OBJECT


def _call_schema(tool: FunctionTool) -> Mapping[str, Any]:
    properties = {
        "name": {"const": tool.function.name},
        "arguments": _parameters_schema(tool.function),
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _parameters_schema(function: FunctionSpec) -> Mapping[str, Any]:
    return {"type": "object", **function.parameters} if function.parameters else _OBJECT
