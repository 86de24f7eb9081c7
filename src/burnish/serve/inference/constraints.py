"""What an answer is bound to: a JSON Schema, or the call of a function."""

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
    """The grammar that the answer must follow; empty for free text.

    Raises Refused where the request asks for two things at once, or for what nobody can follow.
    """
    called = forced_tools(request)
    schema, param = _requested_schema(request), "response_format"
    if called and schema is not None:
        raise RequestError("A forced tool call cannot have a `response_format` too.", "tool_choice")
    if called:
        schema, param = {"anyOf": [_call_schema(tool) for tool in called]}, "tools"
    if schema is None:
        return ""
    if request.guided_choice:
        raise RequestError("`guided_choice` and a schema exclude each other.", "guided_choice")
    try:
        return grammar_from_schema(schema, compact=bool(called))
    except BadSchema as error:
        raise RequestError(str(error), param, "invalid_schema") from error


def forced_tools(request: GenerationParams) -> Sequence[FunctionTool]:
    """The tools of which one must be called; none if the model may answer in words.

    Raises Refused for a choice that is not among the tools.
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
        said = '`tool_choice` is none, auto, required or {"type": "function", "function": {...}}.'
        raise RequestError(said, "tool_choice", "invalid_value")
    found = [tool for tool in request.tools or () if tool.function.name == name]
    if not found:
        raise RequestError("The function of `tool_choice` is not among the tools.", "tool_choice")
    return found


def _requested_schema(request: GenerationParams) -> Mapping[str, Any] | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return _OBJECT
    if wanted.json_schema is None:
        raise RequestError("`json_schema` is missing.", "response_format.json_schema")
    return wanted.json_schema.schema_ or _OBJECT


def _call_schema(tool: FunctionTool) -> Mapping[str, Any]:
    parts = {"name": {"const": tool.function.name}, "arguments": _parameters_schema(tool.function)}
    return {
        "type": "object",
        "properties": parts,
        "required": list(parts),
        "additionalProperties": False,
    }


def _parameters_schema(function: FunctionSpec) -> Mapping[str, Any]:
    given: Mapping[str, Any] | None = function.parameters
    return {"type": "object", **given} if given else _OBJECT
