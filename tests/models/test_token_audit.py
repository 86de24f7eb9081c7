"""The token audit refuses what would train on the wrong tokens, or on none."""

from copy import deepcopy
from dataclasses import replace

import pytest

from burnish.core.records import Message, Row
from burnish.models.chat_template import (
    TokenizedRow,
    encode_prompt,
    encode_row,
    end_of_turn,
    split_as_served,
)
from burnish.models.token_audit import CHECKS, audit


def row_of(ask="Where is my parcel?", say="It comes today.", line=1, system=None):
    first = (Message("system", system),) if system else ()
    messages = (*first, Message("user", ask), Message("assistant", say))
    return Row(messages=messages, file="rows.jsonl", line=line)


def codes(*arguments, **options):
    return {finding.code for finding in audit(*arguments, **options)}


def with_template(tokenizer, template):
    changed = deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def test_good_rows_pass(tiny_tokenizer):
    assert audit([row_of(), row_of(system="Be kind.", line=2)], tiny_tokenizer, 200) == []


def test_trl_6668_labels_that_truncation_masks_are_refused(tiny_tokenizer):
    long = row_of(ask="red green blue " * 40, line=7)

    findings = audit([row_of(), long], tiny_tokenizer, 40)

    by_code = {finding.code: finding for finding in findings}
    assert by_code["no_trained_token"].rows == (7,)
    assert by_code["answer_cut"].rows == (7,)
    need = len(encode_row(tiny_tokenizer, long, 10_000).ids)
    assert f"train.max_length={need}" in by_code["answer_cut"].fix
    assert audit([long], tiny_tokenizer, need) == []


def test_both_of_two_answers_are_audited(tiny_tokenizer):
    cut = replace(row_of(line=3), rejected=Message("assistant", "red green " * 40))
    ends = replace(row_of(line=4), rejected=Message("assistant", "It comes.<|im_end|>"))

    findings = audit([cut, ends, replace(ends, line=5)], tiny_tokenizer, 40)

    assert {finding.code: finding.rows for finding in findings} == {
        "answer_cut": (3,), "special_token_in_text": (4, 5),
    }  # fmt: skip


def test_axolotl_3754_a_turn_end_that_is_always_masked_is_refused(tiny_tokenizer):
    def masks_the_end(tokenizer, row, length):
        right = encode_row(tokenizer, row, length)
        ends = end_of_turn(tokenizer)
        pairs = zip(right.ids, right.weights, strict=True)
        return TokenizedRow(right.ids, tuple(0.0 if i in ends else w for i, w in pairs))

    found = audit([row_of()], tiny_tokenizer, 200, encode=masks_the_end)

    assert [finding.code for finding in found] == ["end_of_turn_not_trained"]
    assert "never stop" in found[0].message


def test_unsloth_416_an_end_masked_because_it_is_the_padding_is_refused(tiny_tokenizer):
    def masks_padding(tokenizer, row, length):
        right = encode_row(tokenizer, row, length)
        pairs = zip(right.ids, right.weights, strict=True)
        pad = tokenizer.pad_token_id
        return TokenizedRow(right.ids, tuple(0.0 if i == pad else w for i, w in pairs))

    found = audit([row_of()], tiny_tokenizer, 200, encode=masks_padding)

    assert [finding.code for finding in found] == ["end_of_turn_not_trained"]
    assert "padding" in found[0].fix


def test_llamafactory_6320_another_template_at_serving_is_refused(tiny_tokenizer):
    other = with_template(
        tiny_tokenizer,
        tiny_tokenizer.chat_template.replace("'<|im_start|>assistant\n'", "'<|im_start|>bot\n'"),
    )

    found = codes(
        [row_of()], tiny_tokenizer, 200, serve=lambda _, messages: encode_prompt(other, messages)
    )

    assert found == {"render_mismatch"}


def test_a_doubled_beginning_is_refused(tiny_tokenizer):
    def doubles(tokenizer, row, length):
        right = encode_row(tokenizer, row, length)
        bos = tokenizer.bos_token_id
        return TokenizedRow((bos, *right.ids), (0.0, *right.weights))

    assert "doubled_bos" in codes([row_of()], tiny_tokenizer, 200, encode=doubles)


def test_a_template_that_drops_the_system_message_is_refused(tiny_tokenizer):
    deaf = with_template(
        tiny_tokenizer,
        tiny_tokenizer.chat_template.replace(
            "{% for message in messages %}",
            "{% for message in messages if message['role'] != 'system' %}",
        ),
    )

    assert codes([row_of(system="Only speak French.")], deaf, 200) == {"message_dropped"}


THINKS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
FORGETS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] if loop.last or message['role'] != 'assistant'"
    " else message['content'].split('#')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_prompt_that_no_answer_continues_is_refused(tiny_tokenizer):
    thinking = with_template(tiny_tokenizer, THINKS)

    assert codes([row_of()], thinking, 200) == {"render_mismatch"}
    assert end_of_turn(thinking) == end_of_turn(tiny_tokenizer)


def test_where_the_template_drops_earlier_thoughts_each_answer_is_a_row_of_its_own(tiny_tokenizer):
    forgetful = with_template(tiny_tokenizer, FORGETS)
    ask, think = Message("user", "a"), Message("assistant", "thought # b")
    talk = Row(messages=(ask, think, ask, replace(think, weight=0.5)))

    first, second = split_as_served(forgetful, talk)

    assert not codes([talk], forgetful, 200)
    assert [len(part.messages) for part in (first, second)] == [2, 4]
    for part, weight in ((first, 1.0), (second, 0.5)):
        row, asked = encode_row(forgetful, part, 200), encode_prompt(forgetful, part.prompt)
        assert list(row.ids[: len(asked)]) == asked, "as it will be served"
        said = "thought # b<|im_end|>"
        assert forgetful.decode([i for i, w in zip(row.ids, row.weights, strict=True) if w]) == said
        assert set(row.weights[: len(asked)]) == {0.0} and max(row.weights) == weight
    assert split_as_served(tiny_tokenizer, talk) == (talk,), "where nothing is dropped, all at once"
    assert split_as_served(forgetful, second) == (second,)


CALL = {"id": "1", "type": "function", "function": {"name": "track", "arguments": "{}"}}


def test_tools_that_the_template_leaves_out_are_refused(tiny_tokenizer):
    asked = Message("user", "Where is it?")
    called = Message("assistant", "", tool_calls=(CALL,))
    offered = {"type": "function", "function": {"name": "track"}}

    assert "tools_dropped" in codes([Row(messages=(asked, called))], tiny_tokenizer, 200)
    row = Row(messages=row_of().messages, tools=(offered,))
    assert codes([row], tiny_tokenizer, 200) == {"tools_dropped"}


def test_text_that_would_end_a_turn_is_refused(tiny_tokenizer):
    found = codes([row_of(ask="ignore this <|im_end|> and that")], tiny_tokenizer, 200)

    assert "special_token_in_text" in found


def test_a_row_whose_answers_all_have_weight_0_is_refused(tiny_tokenizer):
    messages = (Message("user", "a"), Message("assistant", "b", weight=0))

    assert codes([Row(messages=messages)], tiny_tokenizer, 200) == {"no_trained_token"}


@pytest.mark.parametrize("code", CHECKS)
def test_every_check_says_what_is_wrong_and_what_to_do(code):
    message, fix = CHECKS[code]

    assert message.endswith(".") and fix.endswith(".")


NAMES_NO_TOOL = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_tool_that_is_dropped_is_found_though_its_name_is_said(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, NAMES_NO_TOOL)
    offered = {"type": "function", "function": {"name": "parcel"}}
    called = {**CALL, "function": {"name": "parcel", "arguments": "{}"}}
    asked = Message("user", "Where is my parcel?")

    for row in (
        Row(messages=(asked, Message("assistant", "Here.")), tools=(offered,)),
        Row(messages=(asked, Message("assistant", "Wait.", tool_calls=(called,)))),
    ):
        assert codes([row], tokenizer, 200) == {"tools_dropped"}


def test_a_call_whose_arguments_are_dropped_is_found(tiny_tokenizer):
    names = NAMES_NO_TOOL.replace(
        "<|im_end|>",
        "{% for call in message['tool_calls'] or [] %}{{ call['function']['name'] }}{% endfor %}"
        "<|im_end|>",
        1,
    )
    called = Message("assistant", "", tool_calls=(CALL,))

    found = codes([Row(messages=(Message("user", "a"), called))], with_template(
        tiny_tokenizer, names), 200)  # fmt: skip

    assert found == {"tools_dropped"}


def test_a_message_that_is_dropped_is_found_though_another_says_the_same(tiny_tokenizer):
    loop = "for message in messages"
    template = NAMES_NO_TOOL.replace(loop, f"{loop} if message['role'] != 'system'")
    deaf = with_template(tiny_tokenizer, template)

    row = row_of(ask="Answer in French, please: why?", system="Answer in French")

    assert codes([row], deaf, 200) == {"message_dropped"}
