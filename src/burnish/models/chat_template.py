"""Render and encode conversations, identically for training and serving.

A model must be served the tokens that it was trained on, so both come from here. A row is encoded
in the pieces in which it will be served: the prompt exactly as `encode_prompt` returns it, then the
answer up to and including the end-of-turn token.
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
from burnish.models.rendering.special_text import guarded, parts_of
from burnish.models.rendering.template_turns import parts_for, turn_for

#: For models without a chat template: plain labels, and the end-of-text token as end of turn. It is
#: set when a model is loaded, and saved with what is trained on it.
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

#: For encoder-decoders, replacing any template of theirs: the texts of all messages, joined by
#: blank lines. The tokenizer adds its own special tokens around the encoder's input.
SOURCE_TEMPLATE = "{{ messages | map(attribute='content') | select | join('\n\n') }}"


#: The switch for reasoning in a template, and how we set it permanently.
_THINKING_SWITCH, _SET_THINKING = re.compile(r"\benable_thinking\b"), "{% set enable_thinking"

#: A string that no template contains.
_PROBE = "4f1c9"


class PromptMismatch(BadData):
    """The rendered training row does not begin with the prompt that would be served."""


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A row as tokens. `weights[i]` is the loss weight of predicting `ids[i]`; 0 is not trained."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    truncated: bool = False

    @property
    def answers(self) -> tuple["TokenizedRow", ...]:
        """Itself: a row for supervised training has one answer (preference pairs have two)."""
        return (self,)

    def with_prefix(self, ids: tuple[int, ...]) -> "TokenizedRow":
        """Return the row behind prefix tokens of weight 0."""
        return TokenizedRow((*ids, *self.ids), (*[0.0] * len(ids), *self.weights), self.truncated)

    @property
    def target_count(self) -> int:
        """The number of target tokens."""
        return sum(weight > 0 for weight in self.weights)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    thinks: bool = False,
) -> str:
    """Render the prompt, ending where the answer begins, for `encode_rendered`. `thinks` turns on
    reasoning in templates that have a switch (see `set_thinking`)."""
    return _render(tokenizer, messages, tools, is_prompt=True, thinks=thinks)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Render a whole conversation, its last answer included."""
    thinks = bool(messages) and bool(messages[-1].reasoning)
    return _render(tokenizer, messages, tools, is_prompt=False, thinks=thinks)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """Return the tokens of a prompt."""
    text, images = render_prompt(tokenizer, messages, tools), images_of(messages)
    if images:
        return _encode_with_images(tokenizer, text, images)
    if has_source(tokenizer) and len(parts_of(text)) > 1:
        ids = encode_rendered(tokenizer, text)
        return list(tokenizer.build_inputs_with_special_tokens(ids))
    return (
        encode_rendered_prompt(tokenizer, text)
        if has_source(tokenizer)
        else encode_rendered(tokenizer, text)
    )


def encode_rendered_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a rendered prompt; an encoder's own special tokens are added."""
    return list(tokenizer(text, add_special_tokens=has_source(tokenizer))["input_ids"])


def process_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> ProcessedPrompt:
    """Return a prompt with its images as a vision-language model takes it; without images it is
    empty."""
    processor, images = image_processor_of(tokenizer), images_of(messages)
    if processor is None or not images:
        return ProcessedPrompt([], {}, {})
    return processor.process(_unmarked(render_prompt(tokenizer, messages, tools)), images)


def has_source(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether prompts are the source of an encoder-decoder, and answers its target."""
    return bool(tokenizer.chat_template == SOURCE_TEMPLATE)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of rendered text. Special tokens come from the template alone; user-written
    ones are encoded as text (models.special_text)."""
    return [token for part in parts_of(text) for token in encode_text(tokenizer, part)]


def _encode_with_images(
    tokenizer: PreTrainedTokenizerBase, text: str, images: Sequence[Image]
) -> list[int]:
    """Return the tokens of rendered text, image tokens included."""
    processor = image_processor_of(tokenizer)
    if processor and images:
        return processor.process(_unmarked(text), images).ids
    return encode_rendered(tokenizer, text)


def _unmarked(text: str) -> str:
    """Return a rendered text that must be encoded in one piece, with its images. Raises BadData."""
    if len(parts_of(text)) > 1:
        raise BadData(
            "A message with images contains the text of a special token.",
            "Remove it from the text.",
        )
    return text


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row, max_length: int) -> TokenizedRow:
    """Encode a row as tokens with loss weights.

    The targets are the assistant turns whose `weight` isn't 0, each with its end-of-turn token;
    plain text is trained whole. Longer rows are cut at `max_length` tokens and marked `truncated`.
    For an encoder-decoder the row is the source followed by the target. Raises PromptMismatch for a
    template that renders a prompt differently once its answer follows.
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
    for position, before, answer_text in _rendered_answers(tokenizer, row):
        images = images_of(row.messages[done:position])
        between = _encode_with_images(tokenizer, before, images)
        answer = encode_rendered(tokenizer, answer_text)
        ids += [*between, *answer]
        target_count = _count_target_tokens(tokenizer, answer)
        weight = row.messages[position].weight
        weights += [0.0] * len(between)
        weights += [weight] * target_count + [0.0] * (len(answer) - target_count)
        done = position + 1
    return _truncate(ids, weights, max_length)


def _rendered_answers(
    tokenizer: PreTrainedTokenizerBase, row: Row
) -> Iterator[tuple[int, str, str]]:
    """Yield (position, text before, answer text) for each trained answer and the last one. Raises
    PromptMismatch."""
    rendered, last = "", len(row.prompt)
    for position, message in enumerate(row.messages):
        if message.role != "assistant" or (message.weight == 0 and position < last):
            continue
        thinks = bool(message.reasoning)
        prompt = render_prompt(tokenizer, row.messages[:position], row.tools, thinks)
        conversation = render_conversation(tokenizer, row.messages[: position + 1], row.tools)
        yield position, _suffix_after(rendered, prompt), _suffix_after(prompt, conversation)
        rendered = conversation


def split_as_served(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[Row, ...]:
    """Split a conversation into rows that train what is served.

    Usually the row itself. Where the template renders an answer differently once later turns follow
    (Qwen3 drops its reasoning, even an empty one), one row per answer.
    """
    positions = row.trained_turns
    if positions in ((), (len(row.prompt),)) or has_source(tokenizer):
        return (row,)
    try:
        for _ in _rendered_answers(tokenizer, row):
            pass
    except PromptMismatch:
        return tuple(map(row.until, positions))
    return (row,)


def encode_pair(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[list[int], list[int]]:
    """Encode a row for an encoder-decoder as (source, target); a row without an answer, such as
    plain text, has an empty target."""
    if row.text is not None:
        return encode_rendered_prompt(tokenizer, row.text), []
    source = encode_prompt(tokenizer, row.prompt, row.tools)
    answers = row.messages[len(row.prompt) :]
    return source, encode_target(tokenizer, answers[0].text_with_reasoning) if answers else []


def encode_target(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return a decoder's target tokens, with the tokenizer's special tokens and an end token."""
    ids = list(tokenizer(text_target=text)["input_ids"])
    return ids if _eos_id(tokenizer) in ids else [*ids, _eos_id(tokenizer)]


def target_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that every target begins with: none for T5, one for BART."""
    return list(takewhile(lambda token: token != _eos_id(tokenizer), encode_target(tokenizer, "")))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an assistant turn: the template's own, and the end of text."""
    if has_source(tokenizer):
        return frozenset((_eos_id(tokenizer),))
    return _template_end_tokens(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _template_end_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> frozenset[int]:
    probe = (Message("user", "a"), Message("assistant", "b"))
    prompt = render_prompt(tokenizer, probe[:1])
    conversation = render_conversation(tokenizer, probe)
    answer = encode_text(tokenizer, conversation[common_prefix_length(prompt, conversation) :])
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    first = next((token for token in answer if token in special), None)
    return frozenset(token for token in (first, tokenizer.eos_token_id) if token is not None)


def answer_prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template itself puts between a prompt and the answer's text: a space, an
    empty reasoning block; mostly nothing. A model trained with it generates it first."""
    return (
        ""
        if has_source(tokenizer)
        else _template_answer_prefix(tokenizer, str(tokenizer.chat_template))
    )


@lru_cache(maxsize=8)
def _template_answer_prefix(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    probe = (Message("user", "a"), Message("assistant", _PROBE))
    prompt = render_prompt(tokenizer, probe[:1])
    conversation = render_conversation(tokenizer, probe)
    if not conversation.startswith(prompt):
        return ""  # training rejects such a template
    return conversation[len(prompt) :].partition(_PROBE)[0]


def set_thinking(tokenizer: PreTrainedTokenizerBase, thinks: bool) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose template has its reasoning switch set permanently.

    Templates of reasoning models have a switch, `enable_thinking` (Qwen3, SmolLM3, Gemma 4). It is
    off in everything rendered here, so that a base is measured without reasoning, except for
    trained answers that have reasoning. A trained model states its setting in its own template, so
    that every server renders it alike. Without such a switch, returns `tokenizer` itself.
    """
    template = str(tokenizer.chat_template)
    if not _THINKING_SWITCH.search(template) or template.startswith(_SET_THINKING):
        return tokenizer
    changed = copy(tokenizer)
    changed.chat_template = f"{_SET_THINKING} = {str(thinks).lower()} %}}{template}"
    return changed


def _suffix_after(before: str, text: str) -> str:
    """Return the rest of `text` behind `before`, with which it must begin. Raises
    PromptMismatch."""
    if not text.startswith(before):
        raise PromptMismatch(
            "The chat template renders a prompt differently once its answer follows.",
            "Use another template.",
        )
    return text[len(before) :]


def _count_target_tokens(tokenizer: PreTrainedTokenizerBase, answer: Sequence[int]) -> int:
    """Return the number of target tokens of an answer: all up to the last end-of-turn token."""
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
    """Drop the reasoning of earlier turns, which models don't see later: only a trained answer, at
    the end, keeps its own."""
    last = len(messages) if is_prompt else len(messages) - 1
    return [
        replace(m, reasoning="") if m.reasoning and n < last else m for n, m in enumerate(messages)
    ]


def _template_messages(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> list[dict[str, Any]]:
    """Return messages as the template takes them. Raises BadData for images of a text-only model,
    and for texts that contain an image placeholder of the model."""
    processor = image_processor_of(tokenizer)
    if processor is None:
        if images_of(messages):
            raise BadData(
                "The conversation has images; this model reads text only.",
                "Use a vision-language model (docs/guides/vision.md), or leave the images out.",
            )
        return [turn_for(tokenizer, message) for message in messages]
    for message in messages:
        for placeholder in processor.placeholders:
            if placeholder in "".join(part for part in message.parts if isinstance(part, str)):
                what = f"A message contains `{placeholder}`, the placeholder of an image."
                raise BadData(what, "Remove it from the text.")
    return [
        {**turn_for(tokenizer, turn), "content": parts_for(tokenizer, turn)} for turn in messages
    ]


def _eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.eos_token_id)


def _truncate(ids: list[int], weights: list[float], max_length: int) -> TokenizedRow:
    longer = len(ids) > max_length
    return TokenizedRow(tuple(ids[:max_length]), tuple(weights[:max_length]), longer)
