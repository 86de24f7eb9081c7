"""Tool calls as a chat template takes them: their arguments as an object, or as JSON text.

OpenAI's API has them as text. Most templates write `arguments | tojson` and need the object (given
text, they would produce a doubly quoted string that no server parses as a call); a few concatenate
text.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from burnish.core.json_text import BadJson, parse_json

_PROBE = {"4f1c9": "4f1c8"}


def for_template(tokenizer: PreTrainedTokenizerBase, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the call as the tokenizer's template takes it; arguments that are invalid JSON stay
    text."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return dict(call)
    if not _takes_objects(tokenizer, str(tokenizer.chat_template)):
        return dict(call)
    try:
        arguments = parse_json(function["arguments"] or "{}")
    except BadJson:
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}}


@lru_cache(maxsize=16)
def _takes_objects(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Return whether arguments are passed as an object: unless the template fails on one, or prints
    it as Python does."""
    function = {"name": "f", "arguments": _PROBE}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    turns: list[Any] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, TypeError, ValueError):
        return False
    return str(_PROBE) not in rendered
