"""Preferences are read in OpenAI's and TRL's shapes, checked, split and hashed like other rows."""

import json

import pytest

from burnish.core.recipe.data import Columns, Data, Task
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message
from burnish.data.check import check
from burnish.data.duplicates import content_hash
from burnish.data.load import load
from burnish.data.read import read_files


def rows_of(file, **data):
    return read_files([file], Data(**data), Task())


def turn(role, content):
    return {"role": role, "content": content}


ASKED = [turn("user", "1+1?"), turn("assistant", "Two"), turn("user", "As a digit?")]
CHOSEN, REJECTED = [turn("assistant", "2")], [turn("assistant", "3")]

SHAPES = {
    "openai": {
        "input": {"messages": ASKED, "tools": [{"type": "function"}], "parallel_tool_calls": True},
        "preferred_output": CHOSEN,
        "non_preferred_output": REJECTED,
    },
    "trl messages": {"prompt": ASKED, "chosen": CHOSEN, "rejected": REJECTED},
    "trl without a prompt": {"chosen": ASKED + CHOSEN, "rejected": ASKED + REJECTED},
    "prompt named twice": {
        "prompt": "As a digit?", "chosen": ASKED + CHOSEN, "rejected": ASKED + REJECTED,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_two_answers_to_one_conversation_are_read_from_every_shape(name, write_rows):
    file = write_rows("rows.jsonl", [SHAPES[name]])

    (row,) = rows_of(file).rows

    assert [message.content for message in row.prompt] == ["1+1?", "Two", "As a digit?"]
    assert (row.answer, row.rejected) == ("2", Message("assistant", "3"))
    assert [message.weight for message in row.messages if message.role == "assistant"] == [0, 1]
    assert row.tools == (({"type": "function"},) if name == "openai" else ())
    chosen, rejected = row.sides
    assert chosen.prompt == rejected.prompt and rejected.answer == "3"


def test_texts_and_columns_of_other_names_are_read_too(tmp_path):
    (tmp_path / "t.csv").write_text("frage,gut,schlecht\n1+1?,2,3\n")
    columns = Columns(prompt="frage", chosen="gut", rejected="schlecht")

    (row,) = rows_of(tmp_path / "t.csv", columns=columns).rows

    assert (row.prompt[0].content, row.answer, row.rejected.content) == ("1+1?", "2", "3")


def test_answers_that_are_marked_are_read_and_a_bad_one_is_nothing_to_say(write_rows):
    file = write_rows(
        "rows.jsonl",
        [
            {"prompt": "1+1?", "completion": "2", "label": True},
            {"prompt": ASKED, "completion": REJECTED, "label": False},
        ],
    )

    good, bad = rows_of(file).rows

    assert (good.desirable, good.answer, good.label) == (True, "2", None)
    assert (bad.desirable, bad.answer, bad.messages[-1].content) == (False, "", "3")
    (file.parent / "t.csv").write_text("prompt,completion,label\na,b,True\na,c,false\n")
    assert [row.desirable for row in rows_of(file.parent / "t.csv").rows] == [True, False]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": None}, "no rejected answer"),
        ({"prompt": None, "chosen": "b", "rejected": "c"}, "no prompt"),
        ({"prompt": [], "chosen": "b", "rejected": "c"}, "no prompt"),
        ({"chosen": ASKED + CHOSEN, "rejected": ASKED[:2] + REJECTED}, "differ before"),
        ({"prompt": "a", "chosen": ASKED, "rejected": "c"}, "not one assistant message"),
        ({"prompt": "a", "chosen": ASKED[:1], "rejected": "c"}, "not one assistant message"),
        ({"input": "a", "preferred_output": CHOSEN}, "no `input` with a list"),
        ({"input": {"messages": ASKED}, "preferred_output": CHOSEN}, "no rejected answer"),
        ({"prompt": "a", "completion": "b", "label": "spam"}, "not true or false"),
        ({"prompt": "a", "completion": "b", "label": None}, "not true or false"),
    ],
)
def test_a_missing_side_is_a_finding_with_its_row_and_its_fix(broken, message, write_rows):
    found = rows_of(write_rows("rows.jsonl", [broken])).findings

    assert [(finding.code, finding.rows) for finding in found] == [("wrong_shape", (1,))]
    assert message in found[0].message and found[0].fix


def codes_of(file):
    return {
        finding.code: finding.rows for finding in check(read_files([file], Data(), Task()), 0.8)
    }


def test_what_teaches_nothing_or_both_ways_is_found(write_rows):
    pairs = write_rows(
        "pairs.jsonl",
        [
            {"prompt": "a", "chosen": "b", "rejected": "b "},
            {"prompt": "a", "chosen": "c", "rejected": " "},
            {"prompt": "d", "chosen": "e", "rejected": "write to ann.smith@gmail.com"},
            {"prompt": "a", "chosen": "c", "rejected": "e"},
        ],
    )
    judged = write_rows(
        "judged.jsonl",
        [
            {"prompt": "a", "completion": "b", "label": True},
            {"prompt": "a", "completion": "b", "label": False},
            {"prompt": "a", "completion": "c", "label": False},
            {"prompt": "a", "completion": "", "label": False},
        ],
    )

    found = codes_of(pairs)

    assert found["same_answers"] == (1,) and found["empty_answer"] == (2,)
    assert found["personal_data"] == (3,)
    assert "conflicting_answers" not in found, "one question may have many comparisons"
    assert "exact_duplicate" not in found, "another rejected answer is another row"
    assert codes_of(judged)["judged_both_ways"] == (1, 2)
    assert codes_of(judged)["empty_answer"] == (4,)


def test_preferences_are_hashed_whole_and_other_rows_as_they_were(write_rows):
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    file = write_rows("rows.jsonl", [pair, {**pair, "rejected": "d"}])
    plain = write_rows("plain.jsonl", [{"prompt": "a", "completion": "b"}])

    one, two = rows_of(file).rows
    (row,) = rows_of(plain).rows

    assert len({content_hash(one), content_hash(two), content_hash(row)}) == 3
    assert content_hash(row).startswith("b15d676380c2b63f"), "frozen splits stay what they are"


def judged_file(write_rows, count):
    return write_rows(
        "rows.jsonl",
        [
            {"prompt": f"question {n} about {n * 7}", "completion": f"a{n}", "label": n % 3 > 0}
            for n in range(count)
        ],
    )


def test_undesirable_answers_are_no_test_and_the_split_stays_frozen(write_rows):
    recipe = make_recipe({"data": {"train": [str(judged_file(write_rows, 60))]}})

    first, second = load(recipe), load(recipe)

    assert first.split == second.split
    assert first.split.test and all(row.desirable for row in first.split.test)
    kept = {row.id for part in (first.split.train, first.split.validation) for row in part}
    assert any("marked undesirable" in note for note in first.notes)
    assert not kept & {row.id for row in first.split.test}
    assert any(row.desirable is False for row in first.split.train)


def test_the_system_message_of_the_recipe_stands_before_both_answers(write_rows):
    file = write_rows(
        "rows.jsonl",
        [{"prompt": f"q{n}", "chosen": f"b{n}", "rejected": f"c{n}"} for n in range(9)],
    )
    recipe = make_recipe({"data": {"train": [str(file)]}, "task": {"prompt": "Be brief."}})

    row = load(recipe).split.train[0]

    assert {side.messages[0].content for side in row.sides} == {"Be brief."}


def test_a_column_of_labels_that_are_no_judgements_is_still_read_when_said(write_rows):
    record = {"prompt": "card gone", "completion": "We are sorry", "label": "lost_card"}
    file = write_rows("rows.jsonl", [record])

    assert rows_of(file, format="labelled").rows[0].label == "lost_card"
    assert rows_of(file, format="pairs").rows[0].answer == "We are sorry"
    assert "data.format=labelled" in json.dumps([f.fix for f in rows_of(file).findings])
