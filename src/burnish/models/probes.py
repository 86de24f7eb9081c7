"""What a chat template leaves out of a conversation, found by rendering it with other words.

Each text, each tool's name and each call is replaced by a word that stands nowhere else; what isn't
in the rendering then has been dropped, whatever the words of the others happen to say.
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
    """Whether the text of a message is lost, and whether a tool or the call of one is."""

    lost_text: bool = False
    lost_tool: bool = False


def probes_of(tokenizer: PreTrainedTokenizerBase, row: Row) -> Probes:
    """What is lost of a row. A template that refuses such words is found to lose nothing."""
    if not row.messages:
        return Probes()
    texts: list[str] = []
    called: list[str] = []
    messages = [_probed(turn, place, texts, called) for place, turn in enumerate(row.messages)]
    if row.messages[-1].reasoning:
        texts.append("thought7d1e")
        messages[-1] = replace(messages[-1], reasoning=texts[-1])
    tools = [_renamed(tool, place, called) for place, tool in enumerate(row.tools)]
    try:
        rendered = render_conversation(tokenizer, messages, tools)
    except BadData:
        return Probes()
    return Probes(
        lost_text=any(word not in rendered for word in texts),
        lost_tool=any(word not in rendered for word in called),
    )


def _probed(turn: Message, place: int, texts: list[str], called: list[str]) -> Message:
    """A turn with other words; pictures stay where they are, and what is said around them."""
    content = turn.content
    if content.strip() and not turn.images:
        content = f"text7d1e{place}e"
        texts.append(content)
    calls = []
    for number, call in enumerate(turn.tool_calls):
        word = f"7d1e{place}c{number}e"
        called += [f"call{word}", f"argument{word}"]
        arguments = json.dumps({"x": f"argument{word}"})
        calls.append({**call, "function": {"name": f"call{word}", "arguments": arguments}})
    return replace(turn, content=content, tool_calls=tuple(calls))


def _renamed(tool: Mapping[str, Any], place: int, called: list[str]) -> Mapping[str, Any]:
    """A tool by another name; what has none stays as it is."""
    inner = tool.get("function")
    function = inner if isinstance(inner, Mapping) else tool
    if "name" not in function:
        return tool
    called.append(f"tool7d1e{place}e")
    renamed = {**function, "name": called[-1]}
    return {**tool, "function": renamed} if isinstance(inner, Mapping) else renamed
