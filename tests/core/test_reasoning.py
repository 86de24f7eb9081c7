"""Thoughts are told from answers, whole and as they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.reasoning import (
    ReasoningParser,
    begins_with_reasoning,
    join_reasoning,
    split_reasoning,
)
from burnish.core.records import Message

pieces = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think>", "\n", " ", "a", "b c", "{", "é"])
)


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>\nIt is late.\n</think>\n\nno", "It is late.", "no"),
        ("It is late.</think>no", "It is late.", "no"),
        ("<think>\n\n</think>\n\nno", "", "no"),
        ("<think>It is", "It is", ""),
        ("a < b", "", "a < b"),
    ],
)
def test_a_thought_and_what_was_said_are_taken_apart(text, thought, said):
    assert split_reasoning(text) == (thought, said)


@given(st.text().map(str.strip), st.text().map(str.strip))
def test_what_is_put_together_comes_apart_again(thought, said):
    thought, said = (text.replace("think>", "") for text in (thought, said))

    assert split_reasoning(join_reasoning(thought.strip(), said.strip())) == (
        thought.strip(),
        said.strip(),
    )


@given(pieces)
def test_a_stream_gives_what_the_whole_gives_and_takes_nothing_back(stream):
    text, watch = "".join(stream), ReasoningParser()

    shown = [watch.feed(piece) for piece in stream]
    shown.append(watch.feed("", ended=True))

    whole = split_reasoning(text) if begins_with_reasoning(text) else ("", text)
    assert tuple(map("".join, zip(*shown, strict=True))) == whole


def test_a_stream_shows_what_it_can_at_once():
    watch = ReasoningParser()

    assert watch.feed("<think>\nIt is") == ("It is", "")
    assert watch.feed(" late.\n</th") == (" late.", "")
    assert watch.feed("ink>\n\nno") == ("", "no")
    assert ReasoningParser().feed("no") == ("", "no")


def test_a_message_is_learnt_with_its_thought_and_written_beside_it():
    message = Message("assistant", "no", reasoning="It is late.")

    assert message.as_template()["content"] == "<think>\nIt is late.\n</think>\n\nno"
    assert message.parts == (message.text_with_reasoning,), "a model that sees learns it too"
    assert message.as_wire() == {
        "role": "assistant", "content": "no", "reasoning_content": "It is late.",
    }  # fmt: skip
