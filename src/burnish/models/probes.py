"""Find what a chat template drops from a conversation by rendering it with unique words.

Each text, tool name and tool call is replaced by a word that occurs nowhere else; a word missing in
the rendering was dropped, whatever the other texts contain.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData
from burnish.core.records import Message, Row
from burnish.models.chat_template import render_conversation


@dataclass(frozen=True, slots=True)
class Probes:
    """Whether the template drops the text of a message, and a tool or a tool call."""

    lost_text: bool = False
    lost_tool: bool = False


def probes_of(tokenizer: PreTrainedTokenizerBase, row: Row) -> Probes:
    """Return what the template drops of a row. A template that rejects the probe words counts as
    dropping nothing."""
    if not row.messages:
        return Probes()
    texts: list[str] = []
    tool_words: list[str] = []
    messages = [
        _probed(turn, position, texts, tool_words) for position, turn in enumerate(row.messages)
    ]
    if row.messages[-1].reasoning:
        texts.append("thought7d1e")
        messages[-1] = replace(messages[-1], reasoning=texts[-1])
    tools = [_renamed(tool, position, tool_words) for position, tool in enumerate(row.tools)]
    try:
        rendered = render_conversation(tokenizer, messages, tools)
    except BadData:
        return Probes()
    return Probes(
        lost_text=any(word not in rendered for word in texts),
        lost_tool=any(word not in rendered for word in tool_words),
    )


def _probed(turn: Message, position: int, texts: list[str], tool_words: list[str]) -> Message:
    """Return a turn with probe words; images and the text around them stay."""
    content = turn.content
    if content.strip() and not turn.images:
        content = f"text7d1e{position}e"
        texts.append(content)
    calls = []
    for number, call in enumerate(turn.tool_calls):
        word = f"7d1e{position}c{number}e"
        tool_words += [f"call{word}", f"argument{word}"]
        arguments = json.dumps({"x": f"argument{word}"})
        calls.append({**call, "function": {"name": f"call{word}", "arguments": arguments}})
    return replace(turn, content=content, tool_calls=tuple(calls))


def _renamed(tool: Mapping[str, Any], position: int, tool_words: list[str]) -> Mapping[str, Any]:
    """Return a tool with a probe name; one without a name stays as it is."""
    inner = tool.get("function")
    function = inner if isinstance(inner, Mapping) else tool
    if "name" not in function:
        return tool
    tool_words.append(f"tool7d1e{position}e")
    renamed = {**function, "name": tool_words[-1]}
    return {**tool, "function": renamed} if isinstance(inner, Mapping) else renamed
