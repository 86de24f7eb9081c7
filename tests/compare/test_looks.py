"""Looks at the same questions are counted, kept in the workspace, and told apart from repeats."""

import pytest

from burnish.compare.looks import look_at
from burnish.core.records import Interval, Message, Prediction, Row, Scores


@pytest.fixture(autouse=True)
def own_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("BURNISH_HOME", str(tmp_path))


def rows(*numbers):
    return [
        Row((Message("user", f"question {n}"), Message("assistant", "yes")), file="t", line=n)
        for n in numbers
    ]


def routes(*values):
    said = [Prediction(str(n), "", "", "", v, 1, 1, 0.0) for n, v in enumerate(values)]
    return {"fine_tuned": Scores("accuracy", said, Interval(0, 0, 1, len(said)))}


def test_more_rows_of_the_same_kind_are_another_look_and_a_repeated_command_is_none():
    assert look_at(rows(1, 2, 3), routes(1, 0, 1), "a") == 1
    assert look_at(rows(1, 2, 3), routes(1, 0, 1), "a again") == 1
    assert look_at(rows(1, 2, 3, 4, 5, 6), routes(1, 0, 1, 1, 1, 0), "b") == 2
    assert look_at(rows(1, 2, 3), routes(1, 0, 1), "a once more") == 1


def test_another_fine_tune_on_the_same_questions_is_another_look():
    assert look_at(rows(1, 2), routes(0, 0), "a") == 1
    assert look_at(rows(1, 2), routes(0, 1), "b") == 2
    assert look_at(rows(1, 2), routes(1, 1), "c") == 3


def test_other_questions_begin_anew():
    assert look_at(rows(1, 2, 3), routes(0, 0, 0), "a") == 1
    assert look_at(rows(7, 8, 9), routes(0, 0, 0), "b") == 1
