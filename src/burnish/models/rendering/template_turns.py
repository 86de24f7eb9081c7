"""A message as the mapping that a chat template renders."""

from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.records import Message
from burnish.models.rendering.special_text import guarded
from burnish.models.rendering.tool_calls import for_template


def turn_for(tokenizer: PreTrainedTokenizerBase, message: Message) -> dict[str, Any]:
    """Return a message as the template takes it; special-token texts in it are marked as plain
    text."""
    turn = replace(
        message,
        content=guarded(tokenizer, message.content),
        reasoning=guarded(tokenizer, message.reasoning),
    ).as_template()
    if message.tool_calls:
        calls = [for_template(tokenizer, call) for call in message.tool_calls]
        turn["tool_calls"] = guarded(tokenizer, calls)
    return turn


def parts_for(tokenizer: PreTrainedTokenizerBase, turn: Message) -> list[dict[str, str]]:
    """Return the content of a message with images, as templates of vision-language models take
    it."""
    return [
        {"type": "text", "text": guarded(tokenizer, part)}
        if isinstance(part, str)
        else {"type": "image"}
        for part in turn.parts
    ]
