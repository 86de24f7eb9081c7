"""What a teacher says is dropped for a reason, or learnt."""

import pytest

from burnish.core.recipe.data import Task
from burnish.core.records import Message, Row
from burnish.distill.filters import answer_norms, check_examples
from burnish.distill.teacher_answers import TeacherExample
from burnish.engines.answerers.protocol import AnswererReply

NEAR = (0.95, 0.8)


def lesson(answer, asked="where is it", own="", finish="stop", line=1):
    turns = (Message("user", asked), Message("assistant", answer))
    before = (Message("user", asked), Message("assistant", own)) if own else turns[:1]
    row = Row(messages=turns, label=answer, file="a.jsonl", line=line)
    return TeacherExample(
        row, Row(messages=before, file="a.jsonl", line=line), ("k",),
        (AnswererReply(answer, finish_reason=finish),),
    )  # fmt: skip


def reason(one, task="generation", own=(), test=(), labels=()):
    rows = [
        Row(messages=(Message("user", "q"), Message("assistant", answer)), file="own", line=n)
        for n, answer in enumerate(own)
    ]
    standard = answer_norms(rows, Task(kind=task, labels=labels))
    return check_examples([one], standard, test, NEAR)[0].dropped


@pytest.mark.parametrize(
    ("one", "task", "own", "says"),
    [
        (lesson("A good answer."), "generation", (), ""),
        (lesson("  \n"), "generation", (), "the answer is empty"),
        (lesson("A long ans", finish="length"), "generation", (), "the answer was cut short"),
        (lesson("I'm sorry, but I can't help."), "generation", (), "the teacher refused"),
        (lesson("As an AI, I"), "qa", (), "the teacher refused"),
        (lesson("I'm sorry, but no."), "generation", ("I'm sorry to hear it.",), ""),
        (lesson("other"), "classification", ("refund",), "`other` is no label"),
        (lesson(" refund\n"), "classification", ("refund",), ""),
        (lesson("no object"), "extraction", ('{"a": 1}',), "the answer is not a JSON object"),
        (lesson('{"b": 1}'), "extraction", ('{"a": 1, "b": 2}',), "the object lacks a"),
        (lesson('```json\n{"a": 3}\n```'), "extraction", ('{"a": 1}',), ""),
        (lesson("x" * 101), "generation", ("y" * 25,) * 20,
         "the answer is over 4 times as long as any that people gave"),
        (lesson("x" * 100), "generation", ("y" * 25,) * 20, ""),
    ],
)  # fmt: skip
def test_an_answer_is_dropped_for_what_is_wrong_with_it(one, task, own, says):
    assert reason(one, task, own, labels=("refund",)) == says


def test_space_and_fences_are_taken_off_where_every_sign_counts():
    standard = answer_norms([], Task(kind="classification", labels=("refund",)))

    found = check_examples([lesson(" refund\n")], standard, (), NEAR)[0]

    assert (found.row.answer, found.row.label, found.replies[0].text) == ("refund",) * 3


def test_a_question_of_the_test_is_dropped_and_so_is_a_row_that_says_the_same_again():
    test = [Row(messages=(Message("user", "Where is MY parcel, please?"),), file="t", line=1)]
    rows = [
        lesson("It comes.", "where is my parcel please", line=1),
        lesson("Turn it off and on again.", "the lamp is dark today", line=2),
        lesson("Turn it off and on again!", "The lamp is dark today", line=3),
        lesson("Ask the bench.", "the lamp makes a noise", line=4),
    ]

    found = check_examples(rows, answer_norms([], Task(kind="generation")), test, NEAR)

    assert [one.dropped for one in found] == [
        "the question is in the test rows", "", "another row says nearly the same", "",
    ]  # fmt: skip


def test_rows_that_say_the_same_under_other_labels_both_stay():
    rows = [lesson("a", "one two three four five six seven eight " * 5, line=1),
            lesson("b", "one two three four five six seven eight " * 5, line=2)]  # fmt: skip

    found = check_examples(
        rows, answer_norms([], Task(kind="classification", labels=("a", "b"))), (), NEAR
    )

    assert [one.dropped for one in found] == ["", ""]
