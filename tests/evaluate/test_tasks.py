"""A row becomes the prompt that a competent person would write."""

import pytest

from burnish.core.errors import BadData
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Message, Prompt, Row
from burnish.evaluate.metrics import CORPUS_METRICS, METRICS
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    deciding_metric,
    reasoning_length,
    refuse_unanswerable,
    with_examples,
    with_instruction,
)
from tests.stubs.rule_engine import RuleEngine, row

TICKET = Task(kind="classification", labels=("refund", "delivery"))
count = RuleEngine(lambda prompt: "").count_tokens


def test_every_task_has_a_metric_that_decides_and_figures_beside_it():
    for kind, task in TASKS.items():
        assert task.metric in METRICS
        assert CORPUS_METRICS[kind]
        assert deciding_metric(Task(kind=kind), Evaluate()) == task.metric
        assert deciding_metric(Task(kind=kind), Evaluate(metric="chrf")) == "chrf"


def test_a_classification_chooses_among_its_labels_and_the_answer_is_not_in_the_prompt():
    prompt = as_prompt(row("where is it?", "delivery"), TICKET, 16)

    assert prompt.choices == TICKET.labels
    assert [message.content for message in prompt.messages] == ["where is it?"]
    assert as_prompt(row("q", "a"), Task(kind="qa"), 16).choices == ()


def test_an_untrained_model_is_told_the_labels_or_the_keys():
    told = TASKS["classification"].instruction(TICKET, [])
    assert "refund" in told and "delivery" in told

    rows = [row("x", '{"name": "Ada", "paid": 3}'), row("y", "not json"), row("z", '{"due": 1}')]
    told = TASKS["extraction"].instruction(Task(kind="extraction"), rows)
    assert told.endswith("name, paid, due.")


def test_an_instruction_joins_the_system_message_or_becomes_one():
    asked = Message("user", "q")
    bare = with_instruction(Prompt((asked,)), "Be brief.")
    led = with_instruction(Prompt((Message("system", "You sort."), asked)), "Be brief.")

    assert bare.messages == (Message("system", "Be brief."), asked)
    assert led.messages == (Message("system", "You sort.\n\nBe brief."), asked)
    assert with_instruction(Prompt((asked,)), "") == Prompt((asked,))


def test_examples_stand_between_the_system_message_and_the_question():
    system, asked = Message("system", "You sort."), Message("user", "q")
    example = Row((system, Message("user", "e"), Message("assistant", "a")))

    shown = with_examples(Prompt((system, asked)), [example])

    assert [message.content for message in shown.messages] == ["You sort.", "e", "a", "q"]


def test_an_answer_may_be_half_longer_than_the_longest_in_training():
    rows = [row("q", " ".join(["word"] * size)) for size in (3, 40, 7)]

    assert answer_length(rows, Evaluate(), count) == 64
    assert answer_length(rows, Evaluate(max_new_tokens=5), count) == 5
    assert answer_length([row("q", "yes")], Evaluate(), count) == 16


@pytest.mark.parametrize(
    "rows",
    [[], [row("q", "a"), Row(text="plain text")], [row("q", "")]],
    ids=["none", "plain text", "no answer"],
)
def test_rows_that_cannot_be_asked_or_scored_are_refused_with_a_remedy(rows):
    with pytest.raises(BadData) as caught:
        refuse_unanswerable(rows)

    assert caught.value.fix


def test_who_thinks_first_has_room_for_it_and_is_not_held_to_the_labels():
    thinking = Row((Message("user", "q"), Message("assistant", "a", reasoning="word " * 40)))
    rows = [row("q", "refund"), thinking]

    prompt = as_prompt(rows[0], TICKET, 16, reasoning_tokens=reasoning_length(rows, count))

    assert reasoning_length(rows[:1], count) == 0 < reasoning_length(rows, count)
    assert prompt.choices == () and prompt.max_new_tokens == 16 + 64
    assert answer_length(rows, Evaluate(), count) == answer_length(rows[:1], Evaluate(), count)
