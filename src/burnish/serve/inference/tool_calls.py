"""Calls of functions in what a model says, and what it thinks before it says anything.

Models write a call as `{"name": ..., "arguments": {...}}`, alone, in a list, or each between
`<tool_call>` marks (the form of Hermes, Qwen and SmolLM); Llama says `parameters`.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any

from burnish.core.reasoning import ReasoningParser, begins_with_reasoning, split_reasoning

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer taken apart: a thought, words, and calls as clients read them."""

    text: str
    calls: Sequence[dict[str, Any]] = ()
    reasoning: str = ""


def parse_answer(answer: str, names: Collection[str]) -> ParsedAnswer:
    """The thought that an answer begins with, if it does; and its calls, if all that looks like a
    call is one of a known function."""
    thought, text = split_reasoning(answer) if begins_with_reasoning(answer) else ("", answer)
    return replace(
        _parse_tool_calls(text, names) if names else ParsedAnswer(text), reasoning=thought
    )


def _parse_tool_calls(answer: str, names: Collection[str]) -> ParsedAnswer:
    before, mark, rest = answer.partition(_OPEN)
    if mark:
        blocks = [block.partition(_CLOSE)[0] for block in rest.split(_OPEN)]
    else:
        before, blocks = "", [answer]
    found = [call for block in blocks for call in _parse_call_block(block)]
    if not found or any(call is None or call[0] not in names for call in found):
        return ParsedAnswer(answer)
    return ParsedAnswer(before.strip(), [_call_body(*call) for call in found if call])


@dataclass(slots=True)
class AnswerParser:
    """Takes a stream apart as it comes: tells thought from words, and where there are functions
    holds words back as soon as they may be a call."""

    with_calls: bool = False
    reasoning: ReasoningParser = field(default_factory=ReasoningParser)
    text: str = ""
    shown_length: int = 0
    held_logprobs: list[Any] = field(default_factory=list)

    def feed(self, piece: str) -> tuple[str, str]:
        """The thought and the words that can be shown now."""
        thought, said = self.reasoning.feed(piece)
        self.text += said
        begin = self.shown_length
        self.shown_length = max(
            begin, _safe_length(self.text) if self.with_calls else len(self.text)
        )
        return thought, self.text[begin : self.shown_length]

    def end(self) -> tuple[str, str]:
        """What was held back of both, once it is known that there is no call."""
        thought, said = self.reasoning.feed("", ended=True)
        self.text += said
        return thought, self.text[self.shown_length :]


def _safe_length(text: str) -> int:
    """How many letters of a text cannot belong to a call."""
    if text.lstrip()[:1] in ("{", "["):
        return 0
    if (place := text.find(_OPEN)) >= 0:
        return place
    for size in range(min(len(_OPEN) - 1, len(text)), 0, -1):
        if text.endswith(_OPEN[:size]):
            return len(text) - size
    return len(text)


def _parse_call_block(block: str) -> list[tuple[str, Mapping[str, Any]] | None]:
    """The calls in a piece of JSON; None for each thing that is no call."""
    try:
        content = json.loads(block)
    except (ValueError, RecursionError):
        return [None]
    return [_as_call(one) for one in (content if isinstance(content, list) else [content])]


def _as_call(one: Any) -> tuple[str, Mapping[str, Any]] | None:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        return None
    given = one.get("arguments", one.get("parameters", {}))
    return (one["name"], given) if isinstance(given, dict) else None


def _call_body(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{token_hex(12)}", "type": "function", "function": function}
