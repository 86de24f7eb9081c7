"""The text that a chat template puts around each role's content, for engines without Jinja.

It is found by rendering a conversation of marker words, and kept only if reassembling it gives
exactly what the template renders.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from burnish.core.records import Message
from burnish.models.chat_template import render_conversation, render_prompt

_SYSTEM, _USER, _ANSWER, _SECOND_USER = "Marked1", "Marked2", "Marked3", "Marked4"
_CONVERSATION = (
    Message("system", _SYSTEM),
    Message("user", _USER),
    Message("assistant", _ANSWER),
    Message("user", _SECOND_USER),
)


@dataclass(frozen=True, slots=True)
class TurnTemplate:
    """The text before and after each role's content, and the generation prompt."""

    around: Mapping[str, tuple[str, str]]
    generation_prompt: str


def extract_turn_template(tokenizer: PreTrainedTokenizerBase) -> TurnTemplate | None:
    """Return the turns of a template, without the BOS token where engines add it themselves.

    None for a template that depends on more than the role of each message.
    """
    prompt = _without_bos(tokenizer, render_prompt(tokenizer, _CONVERSATION))
    conversation = _without_bos(tokenizer, render_conversation(tokenizer, _CONVERSATION))
    around = {}
    for turns, (role, word) in enumerate(
        (("system", _SYSTEM), ("user", _USER), ("assistant", _ANSWER)), start=1
    ):
        before, through = _render_turns(tokenizer, turns - 1), _render_turns(tokenizer, turns)
        if not through.startswith(before) or through.count(word) != 1:
            return None
        left, _, right = through[len(before) :].partition(word)
        around[role] = (left, right)
    rebuilt = "".join(
        around[message.role][0] + message.content + around[message.role][1]
        for message in _CONVERSATION
    )
    generation_prompt = prompt.removeprefix(conversation)
    return (
        TurnTemplate(around, generation_prompt)
        if rebuilt == conversation and rebuilt + generation_prompt == prompt
        else None
    )


def _render_turns(tokenizer: PreTrainedTokenizerBase, turns: int) -> str:
    """Return the first turns of the conversation, rendered; empty for none."""
    if not turns:
        return ""
    return _without_bos(tokenizer, render_conversation(tokenizer, _CONVERSATION[:turns]))


def _without_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the text without the BOS token, where engines add it themselves."""
    if getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token:
        return text.removeprefix(str(tokenizer.bos_token))
    return text
