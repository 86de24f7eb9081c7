"""How many equal answers show that an export loses nothing that matters."""

import pytest

from burnish.core.recipe.data import Task
from burnish.core.recipe.export import Export
from burnish.core.records import Message, Row
from burnish.export.parity.clients import ServedAnswer
from burnish.export.parity.differences import compare_metric, explain_excess_loss
from burnish.export.parity.questions import GateQuestions


def answers(right, count):
    """The first `right` of `count` answers are the expected one."""
    texts = ["yes"] * right + ["no"] * (count - right)
    return [ServedAnswer(text, True, 5, 1, 0.1) for text in texts]


def questions(count):
    rows = [
        Row((Message("user", f"question {n}"), Message("assistant", "yes"))) for n in range(count)
    ]
    return GateQuestions(rows, (), Task(kind="generation"), "exact_match")


@pytest.mark.parametrize(("count", "ships"), [(58, False), (59, True), (80, True)])
def test_equal_answers_ship_where_they_exclude_a_loss_of_five_points(count, ships):
    right = answers(count // 2, count)

    change = compare_metric(questions(count), right, right, Export())

    assert change.ok is ships and change.budget == 0.05
    assert change.loss_at_most == pytest.approx(1 - 0.05 ** (1 / count), rel=1e-3)


def test_one_changed_answer_is_held_to_the_smaller_budget():
    change = compare_metric(questions(80), answers(40, 80), answers(39, 80), Export())

    assert not change.ok and change.budget == 0.01
    assert "of 1.0 allowed" in explain_excess_loss("free", change, Export())


def test_too_few_equal_answers_are_told_what_would_do():
    right = answers(15, 30)
    change = compare_metric(questions(30), right, right, Export())

    assert "export.points_if_equal" in explain_excess_loss("free", change, Export())
