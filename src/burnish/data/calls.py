"""Tools and their calls, in the forms in which people keep them, as OpenAI's.

Tables (Arrow, Parquet) hold them as JSON text and fill absent keys with null; ShareGPT has turns
`function_call` and `observation`; OpenAI's first form was one `function_call` a message.
"""

import json
from collections.abc import Mapping
from typing import Any

from burnish.core.json_text import BadJson, parse_json
from burnish.data.spans import BadRow

_CALL = '{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}'
_FIX = f"Write [{_CALL}]."


def calls_of(message: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The tool calls of a message, their arguments as the JSON text of an object. Raises BadRow."""
    given = _parsed(message.get("tool_calls"), "`tool_calls`")
    if not given and message.get("function_call") is not None:
        given = [{"function": _parsed(message["function_call"], "`function_call`")}]
    if given in (None, ""):
        return ()
    if not isinstance(given, list | tuple):
        raise BadRow("`tool_calls` is not a list", _FIX)
    return tuple(_call(one) for one in given)


def call_from_text(text: Any) -> dict[str, Any]:
    """The message that ShareGPT's turn `function_call` is: JSON of one call or of several."""
    given = _parsed(text, "a `function_call`")
    calls = given if isinstance(given, list) else [given]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def tools_of(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The tools that a row offers. Raises BadRow."""
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
    """A tool as chat templates take it: a function that stands by itself is put into one."""
    if "function" in tool or "name" not in tool or tool.get("type") not in (None, "function"):
        return dict(tool)
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _call(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise BadRow("a tool call is not an object", _FIX)
    inner = given.get("function")
    function = inner if isinstance(inner, Mapping) else given
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise BadRow("a tool call has no function with a name", _FIX)
    kept = {key: given[key] for key in ("id", "type") if given.get(key) is not None}
    written = _arguments(function.get("arguments"))
    return {"type": "function", **kept, "function": {"name": name, "arguments": written}}


def _arguments(given: Any) -> str:
    """Arguments as JSON text; none at all are those of a function without parameters."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return "{}"
    value = _parsed(given, "the arguments of a tool call", "Write a JSON object, {} for none.")
    if not isinstance(value, Mapping):
        raise BadRow("the arguments of a tool call are no JSON object", "Write {} for none.")
    return given if isinstance(given, str) else json.dumps(value, ensure_ascii=False)


def _parsed(value: Any, name: str, fix: str = _FIX) -> Any:
    """What a JSON text holds; anything else as it is."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return parse_json(value)
    except BadJson as error:
        raise BadRow(f"{name} is text and no JSON: {error.reason}", fix) from error
