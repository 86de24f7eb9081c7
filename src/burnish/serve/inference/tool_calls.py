"""Parse the reasoning and the tool calls in a model's output.

Models write a call as `{"name": ..., "arguments": {...}}`, alone, in a list, or each between
`<tool_call>` marks (the form of Hermes, Qwen and SmolLM); Llama writes `parameters`.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any

from burnish.core.reasoning import ReasoningParser, begins_with_reasoning, split_reasoning
from burnish.serve.inference.protocol import ToolCallObject

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer split into reasoning, text and tool calls."""

    text: str
    calls: Sequence[ToolCallObject] = ()
    reasoning: str = ""


def parse_answer(answer: str, names: Collection[str]) -> ParsedAnswer:
    """Split an answer; calls count only if each of them is of a function among `names`."""
    reasoning, text = split_reasoning(answer) if begins_with_reasoning(answer) else ("", answer)
    parsed = _parse_tool_calls(text, names) if names else ParsedAnswer(text)
    return replace(parsed, reasoning=reasoning)


def _parse_tool_calls(answer: str, names: Collection[str]) -> ParsedAnswer:
    before, mark, rest = answer.partition(_OPEN)
    if mark:
        blocks = [block.partition(_CLOSE)[0] for block in rest.split(_OPEN)]
    else:
        before, blocks = "", [answer]
    calls = [call for block in blocks for call in _parse_call_block(block)]
    if not calls or any(call is None or call[0] not in names for call in calls):
        return ParsedAnswer(answer)
    return ParsedAnswer(before.strip(), [_tool_call(*call) for call in calls if call])


@dataclass(slots=True)
class AnswerParser:
    """Splits a stream into reasoning and text; with functions, it holds back text that may turn out
    to be a tool call."""

    with_calls: bool = False
    reasoning: ReasoningParser = field(default_factory=ReasoningParser)
    text: str = ""
    shown_length: int = 0
    held_logprobs: list[Any] = field(default_factory=list)

    def feed(self, piece: str) -> tuple[str, str]:
        """Return the reasoning and the text that can be shown now."""
        reasoning, text = self.reasoning.feed(piece)
        self.text += text
        begin = self.shown_length
        safe = _safe_length(self.text) if self.with_calls else len(self.text)
        self.shown_length = max(begin, safe)
        return reasoning, self.text[begin : self.shown_length]

    def end(self) -> tuple[str, str]:
        """Return the reasoning and the text that were held back, once the stream has ended."""
        reasoning, text = self.reasoning.feed("", ended=True)
        self.text += text
        return reasoning, self.text[self.shown_length :]


def _safe_length(text: str) -> int:
    """Count the leading characters of a text that cannot belong to a call."""
    if text.lstrip()[:1] in ("{", "["):
        return 0
    if (mark := text.find(_OPEN)) >= 0:
        return mark
    for size in range(min(len(_OPEN) - 1, len(text)), 0, -1):
        if text.endswith(_OPEN[:size]):
            return len(text) - size
    return len(text)


def _parse_call_block(block: str) -> list[tuple[str, Mapping[str, Any]] | None]:
    """Return the calls in a JSON text; None for each element that is not a call."""
    try:
        content = json.loads(block)
    except (ValueError, RecursionError):
        return [None]
    elements = content if isinstance(content, list) else [content]
    return [_as_call(element) for element in elements]


def _as_call(element: Any) -> tuple[str, Mapping[str, Any]] | None:
    if not isinstance(element, dict) or not isinstance(element.get("name"), str):
        return None
    arguments = element.get("arguments", element.get("parameters", {}))
    return (element["name"], arguments) if isinstance(arguments, dict) else None


def _tool_call(name: str, arguments: Mapping[str, Any]) -> ToolCallObject:
    return {
        "id": f"call_{token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": _json_text(arguments)},
    }


def _json_text(value: Any) -> str:
    """Return JSON that UTF-8 can encode: a model may write half a character as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    has_surrogate = any("\ud800" <= letter <= "\udfff" for letter in text)
    return json.dumps(value) if has_surrogate else text
