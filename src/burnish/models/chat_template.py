"""The one rendering of a conversation, for training and for serving alike.

What a model is trained on and what it is asked must be the same tokens, so both come from here. A
row is encoded in the pieces in which it will be served: the prompt exactly as `encode_prompt` gives
it, then the answer up to and including the token that ends the turn.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData
from burnish.core.images import Image
from burnish.core.prefix import common_prefix_length
from burnish.core.records import Message, Row, images_of
from burnish.models.image_processor import ProcessedPrompt, image_processor_of
from burnish.models.special_text import guarded, parts_of
from burnish.models.template_turns import parts_for, turn_for

#: For models that come without a chat template: plain labels, and the end-of-text token as the end
#: of a turn. A model is given it when it is loaded, and it is saved with what is trained on it.
PLAIN_TEMPLATE = (
    "{% if bos_token and add_bos %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ message['role'].capitalize() + ': ' + message['content'] + '\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

#: For encoder-decoders, whatever template they bring: the texts of all messages, joined by blank
#: lines. The tokenizer puts its own special tokens around what the encoder reads.
SOURCE_TEMPLATE = "{{ messages | map(attribute='content') | select | join('\n\n') }}"


#: What asks a model that thinks by itself to do so, and how its template says it for good.
_THINKING_SWITCH, _SET_THINKING = re.compile(r"\benable_thinking\b"), "{% set enable_thinking"

#: An answer that no template has in itself.
_PROBE = "4f1c9"


class PromptMismatch(BadData):
    """What would be trained isn't what would be asked."""


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A row as tokens. `weights[i]` is the loss weight of predicting `ids[i]`; 0 is not trained."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    truncated: bool = False

    @property
    def answers(self) -> tuple["TokenizedRow", ...]:
        """Itself: a row that is learnt has one answer (one that is compared has more)."""
        return (self,)

    def with_prefix(self, ids: tuple[int, ...]) -> "TokenizedRow":
        """The same behind tokens that aren't learnt."""
        return TokenizedRow((*ids, *self.ids), (*[0.0] * len(ids), *self.weights), self.truncated)

    @property
    def target_count(self) -> int:
        """How many tokens are trained."""
        return sum(weight > 0 for weight in self.weights)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    thinks: bool = False,
) -> str:
    """The text that a model is asked, ending where its answer begins, for `encode_rendered`;
    `thinks` asks those that can be asked to think first (see `switched`)."""
    return _render(tokenizer, messages, tools, is_prompt=True, thinks=thinks)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The text of a whole conversation, its last answer included."""
    thinks = bool(messages) and bool(messages[-1].reasoning)
    return _render(tokenizer, messages, tools, is_prompt=False, thinks=thinks)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """The tokens that a model is asked."""
    text, pictures = render_prompt(tokenizer, messages, tools), images_of(messages)
    if pictures:
        return _encode_with_images(tokenizer, text, pictures)
    if has_source(tokenizer) and len(parts_of(text)) > 1:
        ids = encode_rendered(tokenizer, text)
        return list(tokenizer.build_inputs_with_special_tokens(ids))
    return (
        encode_rendered_prompt(tokenizer, text)
        if has_source(tokenizer)
        else encode_rendered(tokenizer, text)
    )


def encode_rendered_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text that a model is asked; an encoder's own special tokens are added."""
    return list(tokenizer(text, add_special_tokens=has_source(tokenizer))["input_ids"])


def process_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> ProcessedPrompt:
    """A prompt with its pictures, as a model that sees takes it; without pictures it is nothing but
    its tokens."""
    sight, pictures = image_processor_of(tokenizer), images_of(messages)
    if sight is None or not pictures:
        return ProcessedPrompt([], {}, {})
    return sight.process(_unmarked(render_prompt(tokenizer, messages, tools)), pictures)


def has_source(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether prompts are the source of an encoder-decoder, and answers its target."""
    return bool(tokenizer.chat_template == SOURCE_TEMPLATE)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text as it is; none are added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of rendered text; the template has put the special tokens in, and what somebody wrote
    is none of them (models.special_text)."""
    return [token for part in parts_of(text) for token in encode_text(tokenizer, part)]


def _encode_with_images(
    tokenizer: PreTrainedTokenizerBase, text: str, pictures: Sequence[Image]
) -> list[int]:
    """Tokens of rendered text in which pictures stand, those of the pictures among them."""
    sight = image_processor_of(tokenizer)
    if sight and pictures:
        return sight.process(_unmarked(text), pictures).ids
    return encode_rendered(tokenizer, text)


def _unmarked(text: str) -> str:
    """A rendered text that must be encoded in one piece, pictures and all. Raises BadData."""
    if len(parts_of(text)) > 1:
        raise BadData(
            "A text beside pictures holds the text of a special token.", "Remove it from the text."
        )
    return text


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row, max_length: int) -> TokenizedRow:
    """A row as tokens, with a weight for each token that is learnt.

    Trained are the assistant turns whose `weight` isn't 0, each with the token that ends it; plain
    text is trained whole. Longer rows are cut at `max_length` tokens and say so. Raises
    PromptChanges for a template that renders a prompt otherwise once its answer is there. For an
    encoder-decoder the row is what it reads and, behind it, what it should say to that.
    """
    if has_source(tokenizer):
        source, target = encode_pair(tokenizer, row)
        weight = row.messages[len(row.prompt)].weight if target else 0.0
        weights = [0.0] * len(source) + [weight] * len(target)
        return _truncate([*source, *target], weights, max_length)
    if row.text is not None:
        ids = [*encode_text(tokenizer, row.text), *[_eos_id(tokenizer)] * row.ends]
        return _truncate(ids, [0.0, *[1.0] * (len(ids) - 1)], max_length)
    ids, weights, done = [], [], 0
    for position, before, said in _rendered_answers(tokenizer, row):
        shown = images_of(row.messages[done:position])
        between = _encode_with_images(tokenizer, before, shown)
        answer = encode_rendered(tokenizer, said)
        ids += [*between, *answer]
        learnt = _count_target_tokens(tokenizer, answer)
        weight = row.messages[position].weight
        weights += [0.0] * len(between)
        weights += [weight] * learnt + [0.0] * (len(answer) - learnt)
        done = position + 1
    return _truncate(ids, weights, max_length)


def _rendered_answers(
    tokenizer: PreTrainedTokenizerBase, row: Row
) -> Iterator[tuple[int, str, str]]:
    """For each answer that is learnt (and for the last one) its place, what is rendered between the
    one before and it, and itself. Raises PromptChanges."""
    rendered, last = "", len(row.prompt)
    for position, message in enumerate(row.messages):
        if message.role != "assistant" or (message.weight == 0 and position < last):
            continue
        thinks = bool(message.reasoning)
        asked = render_prompt(tokenizer, row.messages[:position], row.tools, thinks)
        whole = render_conversation(tokenizer, row.messages[: position + 1], row.tools)
        yield position, _suffix_after(rendered, asked), _suffix_after(asked, whole)
        rendered = whole


def split_as_served(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[Row, ...]:
    """The rows that teach what a conversation does: itself; or one for each of its answers, behind
    the turns before as they will be shown then, where the template shows an answer otherwise once
    the talk goes on (without its thought, were it an empty one: Qwen3)."""
    places = row.trained_turns
    if places in ((), (len(row.prompt),)) or has_source(tokenizer):
        return (row,)
    try:
        for _ in _rendered_answers(tokenizer, row):
            pass
    except PromptMismatch:
        return tuple(map(row.until, places))
    return (row,)


def encode_pair(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[list[int], list[int]]:
    """A row for an encoder-decoder: all before the last answer, and the last answer (no tokens in
    a row without one, such as plain text)."""
    if row.text is not None:
        return encode_rendered_prompt(tokenizer, row.text), []
    source = encode_prompt(tokenizer, row.prompt, row.tools)
    answers = row.messages[len(row.prompt) :]
    return source, encode_target(tokenizer, answers[0].text_with_reasoning) if answers else []


def encode_target(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """What a decoder should say, with the tokenizer's special tokens for targets and an end."""
    ids = list(tokenizer(text_target=text)["input_ids"])
    return ids if _eos_id(tokenizer) in ids else [*ids, _eos_id(tokenizer)]


def target_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that every target begins with: none for T5, one for BART."""
    return list(takewhile(lambda token: token != _eos_id(tokenizer), encode_target(tokenizer, "")))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an assistant turn: the template's own, and the end of text."""
    if has_source(tokenizer):
        return frozenset((_eos_id(tokenizer),))
    return _template_end_tokens(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _template_end_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> frozenset[int]:
    probe = (Message("user", "a"), Message("assistant", "b"))
    asked = render_prompt(tokenizer, probe[:1])
    whole = render_conversation(tokenizer, probe)
    answer = encode_text(tokenizer, whole[common_prefix_length(asked, whole) :])
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    first = next((token for token in answer if token in special), None)
    return frozenset(token for token in (first, tokenizer.eos_token_id) if token is not None)


def answer_prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template itself puts between a prompt and the text of its answer, as it is shown: a
    space, an empty thought; mostly nothing. A model that was trained with it says it first."""
    return (
        ""
        if has_source(tokenizer)
        else _template_answer_prefix(tokenizer, str(tokenizer.chat_template))
    )


@lru_cache(maxsize=8)
def _template_answer_prefix(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    probe = (Message("user", "a"), Message("assistant", _PROBE))
    asked = render_prompt(tokenizer, probe[:1])
    whole = render_conversation(tokenizer, probe)
    if not whole.startswith(asked):
        return ""  # such a template is refused where something is learnt
    return whole[len(asked) :].partition(_PROBE)[0]


def set_thinking(tokenizer: PreTrainedTokenizerBase, thinks: bool) -> PreTrainedTokenizerBase:
    """A tokenizer whose template has its switch for thoughts set for good.

    Templates of models that think by themselves have one, `enable_thinking` (Qwen3, SmolLM3,
    Gemma 4). It is off in all that is rendered here, so that a base is measured as it answers, but
    where an answer with a thought is learnt; what is trained says in its own template which of both
    it is, so that every server asks it the same. Without such a switch it is `tokenizer` itself.
    """
    template = str(tokenizer.chat_template)
    if not _THINKING_SWITCH.search(template) or template.startswith(_SET_THINKING):
        return tokenizer
    own = copy(tokenizer)
    own.chat_template = f"{_SET_THINKING} = {str(thinks).lower()} %}}{template}"
    return own


def _suffix_after(before: str, text: str) -> str:
    """What `text` says more than `before`, which it must begin with."""
    if not text.startswith(before):
        raise PromptMismatch(
            "The chat template renders a prompt otherwise once its answer is there.",
            "Use another template.",
        )
    return text[len(before) :]


def _count_target_tokens(tokenizer: PreTrainedTokenizerBase, answer: Sequence[int]) -> int:
    """How many tokens of an answer are learnt: all up to the last token that ends a turn."""
    ends = end_of_turn(tokenizer)
    for position in range(len(answer) - 1, -1, -1):
        if answer[position] in ends:
            return position + 1
    return len(answer)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    *,
    is_prompt: bool,
    thinks: bool,
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                _template_messages(tokenizer, _without_earlier_reasoning(messages, is_prompt)),
                tools=guarded(tokenizer, tools) or None,
                tokenize=False,
                add_generation_prompt=is_prompt,
                add_bos=bool(getattr(tokenizer, "add_bos_token", False)),
                enable_thinking=thinks,
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise BadData(
            f"The chat template refuses this conversation: {error}",
            "Use the roles and the order that the model's template knows.",
        ) from error


def _without_earlier_reasoning(messages: Sequence[Message], is_prompt: bool) -> list[Message]:
    """Messages without the thoughts of earlier turns, which nobody is told later: only an answer
    that is learnt has its own, at the end."""
    last = len(messages) if is_prompt else len(messages) - 1
    return [
        replace(m, reasoning="") if m.reasoning and n < last else m for n, m in enumerate(messages)
    ]


def _template_messages(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> list[dict[str, Any]]:
    """Messages as the template takes them. Raises BadData for pictures that nobody sees, and for
    texts that would stand for one."""
    sight = image_processor_of(tokenizer)
    if sight is None:
        if images_of(messages):
            raise BadData(
                "There are pictures, and this model reads text only.",
                "Ask a model that sees (docs/guides/vision.md), or leave the pictures out.",
            )
        return [turn_for(tokenizer, message) for message in messages]
    for message in messages:
        for word in sight.placeholders:
            if word in "".join(part for part in message.parts if isinstance(part, str)):
                said = f"A text holds `{word}`, which stands for a picture."
                raise BadData(said, "Remove it from the text.")
    return [
        {**turn_for(tokenizer, turn), "content": parts_for(tokenizer, turn)} for turn in messages
    ]


def _eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.eos_token_id)


def _truncate(ids: list[int], weights: list[float], max_length: int) -> TokenizedRow:
    longer = len(ids) > max_length
    return TokenizedRow(tuple(ids[:max_length]), tuple(weights[:max_length]), longer)
