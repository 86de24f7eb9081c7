"""One rendering for training and for serving."""

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.core.errors import BadData
from burnish.core.records import Message, Row
from burnish.models.chat_template import (
    PLAIN_TEMPLATE,
    SOURCE_TEMPLATE,
    answer_prefix,
    encode_prompt,
    encode_row,
    end_of_turn,
    render_conversation,
    render_prompt,
    set_thinking,
    split_as_served,
)
from burnish.models.token_audit import audit

words = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=30)
relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def row_of(*turns):
    return Row(messages=tuple(Message(role, text) for role, text in turns))


@relaxed
@given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_what_is_trained_begins_with_exactly_what_is_served(tiny_tokenizer, pairs):
    turns = [turn for ask, say in pairs for turn in (("user", ask), ("assistant", say))]
    row = row_of(*turns)

    encoded = encode_row(tiny_tokenizer, row, 10_000)
    asked = encode_prompt(tiny_tokenizer, row.prompt)

    assert list(encoded.ids[: len(asked)]) == asked
    assert tiny_tokenizer.decode(encoded.ids) == render_conversation(tiny_tokenizer, row.messages)


def test_only_the_answer_and_the_token_that_ends_it_are_trained(tiny_tokenizer):
    encoded = encode_row(tiny_tokenizer, row_of(("user", "red?"), ("assistant", "blue")), 100)

    learnt = [i for i, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]

    assert tiny_tokenizer.decode(learnt) == "blue<|im_end|>"


def test_a_turn_of_weight_0_is_context(tiny_tokenizer):
    messages = (
        Message("user", "one"), Message("assistant", "two", weight=0),
        Message("user", "three"), Message("assistant", "four"),
    )  # fmt: skip
    encoded = encode_row(tiny_tokenizer, Row(messages=messages), 100)

    learnt = [i for i, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]

    assert tiny_tokenizer.decode(learnt) == "four<|im_end|>"


def test_plain_text_is_trained_whole_but_for_its_first_token(tiny_tokenizer):
    encoded = encode_row(tiny_tokenizer, Row(text="red green blue"), 100)

    assert encoded.ids[-1] == tiny_tokenizer.eos_token_id
    assert encoded.weights == (0.0, *[1.0] * (len(encoded.ids) - 1))


def test_a_longer_row_is_cut_and_says_so(tiny_tokenizer):
    encoded = encode_row(tiny_tokenizer, row_of(("user", "red"), ("assistant", "x" * 200)), 50)

    assert encoded.truncated and len(encoded.ids) == 50


def test_a_model_without_a_template_gets_a_plain_one_that_ends_its_turns(tiny_tokenizer):
    from copy import deepcopy

    plain = deepcopy(tiny_tokenizer)
    plain.chat_template = PLAIN_TEMPLATE
    row = row_of(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))

    assert render_prompt(plain, row.prompt) == "Be brief.\n\nUser: Hi\nAssistant:"
    encoded = encode_row(plain, row, 100)
    learnt = [i for i, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]
    assert plain.decode(learnt) == " Hello<|im_end|>"
    assert end_of_turn(plain) == {plain.eos_token_id}


def test_a_conversation_that_the_template_refuses_is_explained(tiny_tokenizer):
    from copy import deepcopy

    strict = deepcopy(tiny_tokenizer)
    strict.chat_template = "{{ raise_exception('System role not supported') }}"

    with pytest.raises(BadData, match="System role not supported"):
        render_prompt(strict, (Message("user", "Hi"),))


#: As Qwen3 has it: a thought stands before every answer, and is empty where none was thought.
THOUGHTFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: A prompt that looks otherwise once it is answered.
CHANGING = "{% for m in messages %}{{ loop.length ~ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "lead"),
    [
        (None, ""),
        (PLAIN_TEMPLATE, " "),
        (THOUGHTFUL, "<think>\n\n</think>\n\n"),
        (SOURCE_TEMPLATE, ""),
        (CHANGING, ""),
    ],
)
def test_what_a_template_puts_before_an_answer_is_known(tiny_tokenizer, template, lead):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = template or tokenizer.chat_template

    assert answer_prefix(tokenizer) == lead


#: With the switch of Qwen3: who is asked not to think finds the empty thought in the prompt.
SWITCHABLE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last and '<think>' not in m['content'] %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


@pytest.fixture
def switchable(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = SWITCHABLE
    return tokenizer


def learnt(tokenizer, row):
    encoded = encode_row(tokenizer, row, 100)
    return tokenizer.decode(
        [i for i, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]
    )


def test_who_thinks_by_itself_is_asked_not_to_unless_a_thought_is_learnt(switchable):
    ask, empty = Message("user", "which?"), "<think>\n\n</think>\n\n"
    plain = Row(messages=(ask, Message("assistant", "blue")))
    thinking = Row(messages=(ask, Message("assistant", "blue", reasoning="red?")))

    assert render_prompt(switchable, (ask,)).endswith(f"assistant\n{empty}")
    assert answer_prefix(switchable) == "" and learnt(switchable, plain) == "blue<|im_end|>"
    told = "<think>\nred?\n</think>\n\nblue<|im_end|>"
    assert learnt(switchable, thinking) == told, "even among rows that don't think"

    for tokenizer in (asked := set_thinking(switchable, True), set_thinking(asked, False)):
        assert render_prompt(tokenizer, (ask,)).endswith("<|im_start|>assistant\n")
        assert learnt(tokenizer, plain) == f"{empty}blue<|im_end|>", "no thought is learnt too"
        assert learnt(tokenizer, thinking) == told
        assert not audit([plain, thinking], tokenizer, 100)
    assert not audit([plain, thinking], switchable, 100) and not audit([plain], switchable, 100)
    assert switchable.chat_template == SWITCHABLE


def test_what_is_set_for_good_is_what_any_other_server_renders(switchable, tiny_tokenizer):
    chat = [{"role": "user", "content": "which?"}]

    for thinks in (False, True):
        other = set_thinking(switchable, thinks).apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        assert other.endswith("assistant\n" if thinks else "</think>\n\n")
    assert set_thinking(tiny_tokenizer, True) is tiny_tokenizer


def test_a_thought_is_learnt_with_its_answer_and_no_later_turn_sees_it(tiny_tokenizer):
    thinking = Message("assistant", "blue", reasoning="red?")
    row = Row(messages=(Message("user", "which?"), thinking))
    later = render_prompt(tiny_tokenizer, (*row.messages, Message("user", "sure?")))

    assert learnt(tiny_tokenizer, row) == "<think>\nred?\n</think>\n\nblue<|im_end|>"
    assert "blue" in later and "red?" not in later
    two = Row(messages=(*row.messages, Message("user", "sure?"), thinking))
    with pytest.raises(BadData, match="renders a prompt differently"):
        encode_row(tiny_tokenizer, two, 100)
    assert split_as_served(tiny_tokenizer, two) == (row, two.until(3))
    early = Row(messages=(*two.messages[:3], Message("assistant", "yes", weight=0.0)))
    assert split_as_served(tiny_tokenizer, early) == (row,), "an answer before the end"
