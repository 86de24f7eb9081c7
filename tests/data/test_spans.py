"""Rows of labelled spans, by characters and by tagged tokens."""

import pytest

from burnish.core.recipe.data import Data, Task
from burnish.core.spans import Span
from burnish.data.infer_task import infer_task
from burnish.data.read import read_files


def rows_of(write_rows, *records):
    return read_files([write_rows("rows.jsonl", list(records))], Data(), Task())


def test_characters_and_tags_say_the_same(write_rows):
    both = rows_of(
        write_rows,
        {
            "text": "Ada lives in New York",
            "spans": [
                {"start": 13, "end": 21, "label": "place"},
                {"start": 0, "end": 3, "label": "person", "text": "Ada"},
            ],
        },
    ).rows + rows_of(
        write_rows,
        {
            "tokens": ["Ada", "lives", "in", "New", "York"],
            "ner_tags": ["B-person", "O", "O", "B-place", "I-place"],
        },
    ).rows  # fmt: skip

    assert both[0].spans == both[1].spans == (Span(0, 3, "person"), Span(13, 21, "place"))
    assert both[0].messages == both[1].messages
    assert both[0].answer == (
        '[{"text": "Ada", "label": "person"}, {"text": "New York", "label": "place"}]'
    )
    assert '"start": 13, "end": 21' in both[0].expected
    assert infer_task(both, Task())[0].kind == "spans"


@pytest.mark.parametrize(
    "record, words",
    [
        ({"text": "Ada", "spans": [{"start": 0, "end": 4, "label": "x"}]}, "3 characters"),
        ({"text": "Ada", "spans": [{"start": 0, "end": 3}]}, "or a `label`"),
        ({"text": "Ada", "spans": [{"start": 0, "end": 2, "label": "x", "text": "Ad a"}]}, "'Ad'"),
        (
            {
                "text": "Ada B",
                "spans": [
                    {"start": 0, "end": 3, "label": "x"},
                    {"start": 2, "end": 5, "label": "y"},
                ],
            },
            "overlap",
        ),
        ({"tokens": ["Ada"], "ner_tags": [3]}, "not their numbers"),
        ({"tokens": ["Ada"], "tags": ["E-person"]}, "B-label or I-label"),
        ({"tokens": ["Ada", "B"], "tags": ["O"]}, "same length"),
        ({"text": "Ada", "spans": None}, "a list `spans`"),
    ],
)
def test_a_row_that_marks_nothing_sensible_is_refused_with_the_reason(write_rows, record, words):
    found = rows_of(write_rows, record)

    assert not found.rows
    assert any(words in f"{finding.message} {finding.fix}" for finding in found.findings)
