"""What a chat template puts around each role's words, for engines that run no Jinja.

It is found by rendering a conversation of marked words, and kept only if putting it together again
gives exactly what the template renders.
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
    """The text before and behind each role's words, and what asks for an answer."""

    around: Mapping[str, tuple[str, str]]
    generation_prompt: str


def extract_turn_template(tokenizer: PreTrainedTokenizerBase) -> TurnTemplate | None:
    """The turns of a template, without the first token where engines add that by themselves.

    None for a template that depends on more than the role of each message.
    """
    whole = _without_bos(tokenizer, render_prompt(tokenizer, _CONVERSATION))
    talk = _without_bos(tokenizer, render_conversation(tokenizer, _CONVERSATION))
    around = {}
    for alone, (role, word) in enumerate(
        (("system", _SYSTEM), ("user", _USER), ("assistant", _ANSWER)), start=1
    ):
        before, with_it = _render_turns(tokenizer, alone - 1), _render_turns(tokenizer, alone)
        if not with_it.startswith(before) or with_it.count(word) != 1:
            return None
        left, _, right = with_it[len(before) :].partition(word)
        around[role] = (left, right)
    ours = "".join(
        around[message.role][0] + message.content + around[message.role][1]
        for message in _CONVERSATION
    )
    asking = whole.removeprefix(talk)
    return TurnTemplate(around, asking) if ours == talk and ours + asking == whole else None


def _render_turns(tokenizer: PreTrainedTokenizerBase, turns: int) -> str:
    """The first turns of the conversation, as rendered; nothing for none of them."""
    if not turns:
        return ""
    return _without_bos(tokenizer, render_conversation(tokenizer, _CONVERSATION[:turns]))


def _without_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text without the first token, where engines add that by themselves."""
    if getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token:
        return text.removeprefix(str(tokenizer.bos_token))
    return text
