"""Tools and tool calls in common formats, converted to OpenAI's.

Tables (Arrow, Parquet) store them as JSON text and fill absent keys with null; ShareGPT has turns
`function_call` and `observation`; OpenAI's first format had one `function_call` per message.
"""

import json
from collections.abc import Mapping
from typing import Any

from burnish.core.json_text import BadJson, parse_json
from burnish.data.spans import BadRow

_CALL = '{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}'
_FIX = f"Write [{_CALL}]."


def calls_of(message: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the tool calls of a message, their arguments as the JSON text of an object. Raises
    BadRow."""
    calls = _parsed(message.get("tool_calls"), "`tool_calls`")
    if not calls and message.get("function_call") is not None:
        calls = [{"function": _parsed(message["function_call"], "`function_call`")}]
    if calls in (None, ""):
        return ()
    if not isinstance(calls, list | tuple):
        raise BadRow("`tool_calls` is not a list", _FIX)
    return tuple(_call(call) for call in calls)


def call_from_text(text: Any) -> dict[str, Any]:
    """Return the message of ShareGPT's turn `function_call`: JSON of one call or of several."""
    value = _parsed(text, "a `function_call`")
    calls = value if isinstance(value, list) else [value]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def tools_of(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the tools of a row. Raises BadRow."""
    tools = _parsed(record.get("tools"), "`tools`")
    if tools in (None, "", []):
        tools = _parsed(record.get("functions"), "`functions`")
    if tools in (None, ""):
        return ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadRow(
            "`tools` is not a list of objects",
            'Write [{"type": "function", "function": {"name": ..., "parameters": {...}}}].',
        )
    return tuple(_tool(tool) for tool in tools)


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a tool as chat templates take it: a bare function is wrapped."""
    if "function" in tool or "name" not in tool or tool.get("type") not in (None, "function"):
        return dict(tool)
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _call(call: Any) -> Mapping[str, Any]:
    if not isinstance(call, Mapping):
        raise BadRow("a tool call is not an object", _FIX)
    nested = call.get("function")
    function = nested if isinstance(nested, Mapping) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise BadRow("a tool call has no function with a name", _FIX)
    metadata = {key: call[key] for key in ("id", "type") if call.get(key) is not None}
    arguments = _arguments(function.get("arguments"))
    return {"type": "function", **metadata, "function": {"name": name, "arguments": arguments}}


def _arguments(arguments: Any) -> str:
    """Return arguments as JSON text; missing arguments are an empty object."""
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return "{}"
    value = _parsed(arguments, "the arguments of a tool call", "Write a JSON object, {} for none.")
    if not isinstance(value, Mapping):
        raise BadRow("the arguments of a tool call are not a JSON object", "Write {} for none.")
    return arguments if isinstance(arguments, str) else json.dumps(value, ensure_ascii=False)


def _parsed(value: Any, name: str, fix: str = _FIX) -> Any:
    """Return the value of a JSON text; anything else unchanged."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return parse_json(value)
    except BadJson as error:
        raise BadRow(f"{name} is text that is not JSON: {error.reason}", fix) from error
