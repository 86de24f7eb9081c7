"""Splits are a partition, stratified, whole in their clusters, and frozen."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import BadData, TestSplitChanged
from burnish.core.progress import LineReporter, set_reporter
from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Row
from burnish.core.settings import workspace
from burnish.data.check import check_rows, find_leaks
from burnish.data.duplicates import content_hash, earlier_hash
from burnish.data.frozen_split import thaw
from burnish.data.infer_task import infer_task
from burnish.data.load import load
from burnish.data.split import draw_split, sample_rows


def labelled(count, labels=("red", "green")):
    return [
        {"text": f"thing{n} number{n * 7} of kind{n * 3}", "label": labels[n % len(labels)]}
        for n in range(count)
    ]


def recipe_for(train, **data):
    return make_recipe({"data": {"train": [str(train)], **data}})


def row_of(ask, say="x", label=None, group=None):
    return Row((Message("user", ask), Message("assistant", say)), label=label, group=group)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from("abc")), min_size=4, max_size=60),
    st.floats(0.1, 0.5),
    st.integers(0, 5),
)
def test_a_split_is_a_partition_that_tears_no_group(entries, share, seed):
    rows = [row_of(f"text{n} more{n}", label=None, group=group) for n, group in entries]

    stays, drawn = draw_split(rows, share, seed, 0.8)

    assert sorted(map(id, stays + drawn)) == sorted(map(id, rows))
    assert draw_split(rows, share, seed, 0.8) == (stays, drawn)
    assert not {row.group for row in stays} & {row.group for row in drawn}


def logged(talk, turns, opening="hello"):
    """Each turn of a talk as a row with all turns before it."""
    said, rows = [], []
    for turn in range(turns):
        asked = f"what{talk} of number{talk * turn} and kind{talk}{turn}" if turn else opening
        said += [Message("user", asked), Message("assistant", f"answer{talk}{turn}")]
        rows.append(Row(tuple(said), file="rows.jsonl", line=100 * talk + turn))
    return rows


def test_the_turns_of_one_conversation_are_in_one_split():
    talks = [logged(talk, 5, opening=f"first{talk} question{talk}") for talk in range(20)]

    stays, drawn = draw_split([row for rows in talks for row in rows], 0.3, 0, 0.8)

    assert len(drawn) == 30
    for rows in talks:
        assert {row in drawn for row in rows} in ({True}, {False})


def test_a_greeting_binds_no_conversations_together():
    talks = [logged(talk, 3) for talk in range(20)]

    stays, drawn = draw_split([row for rows in talks for row in rows], 0.3, 0, 0.8)

    assert 12 <= len(drawn) <= 24


def test_a_row_that_answers_a_test_question_on_its_way_is_left_out():
    talks = [logged(talk, 3, opening=f"first{talk} question{talk}") for talk in range(4)]
    alone = [rows[-1] for rows in talks]

    assert find_leaks(alone, [talks[2][1]], 0.99) == ([alone[2]], [])
    assert find_leaks([talks[2][1]], alone, 0.99) == ([], []), (
        "what is asked later was never answered"
    )


def test_test_questions_of_one_conversation_count_as_one_draw(write_rows):
    talks = [logged(talk, 3, opening=f"first{talk} question{talk}") for talk in range(20)]
    lines = [
        {"messages": [message.as_template() for message in row.messages]}
        for rows in talks
        for row in rows
    ]

    dataset = load(recipe_for(write_rows("rows.jsonl", lines), near_duplicate=1.0, test_share=0.3))

    test = dataset.split.test
    assert len(test) == 18 and len({row.group for row in test}) == 6
    assert any("18 test questions are of 6 groups or conversations" in n for n in dataset.notes)
    alone = load(recipe_for(write_rows("alone.jsonl", labelled(40))))
    assert {row.group for row in alone.split.test} == {None}


def test_a_split_is_stratified_and_moves_no_row_when_rows_are_added():
    rows = [row_of(f"w{n} v{n}", label="ab"[n % 4 == 0]) for n in range(200)]

    stays, drawn = draw_split(rows, 0.2, 0, 0.8)
    more, again = draw_split([*rows, row_of("one more", label="a")], 0.2, 0, 0.8)

    assert abs(sum(row.label == "b" for row in drawn) - 10) <= 1 and abs(len(drawn) - 40) <= 1
    assert len(set(drawn) - set(again)) <= 1


@pytest.mark.parametrize("seed", range(12))
def test_a_large_group_is_passed_over_and_the_share_is_drawn_all_the_same(seed):
    large = [row_of(f"large{n} of{n}", group="large") for n in range(500)]
    others = [row_of(f"w{n} v{n}", group=f"g{n // 4}") for n in range(500)]

    stays, drawn = draw_split([*large, *others], 0.2, seed, 0.8)

    assert 190 <= len(drawn) <= 210
    assert {row.group for row in stays if row.group == "large"} == {"large"}


@pytest.mark.parametrize("seed", range(6))
def test_no_label_is_lost_beyond_a_giant_group(seed):
    giant = [row_of(f"giant{n} of{n}", label="ab"[n % 2], group="giant") for n in range(60)]
    some = [row_of(f"w{n} v{n}", label="b", group=f"b{n // 8}") for n in range(16)]
    others = [row_of(f"x{n} y{n}", label="a") for n in range(10)]
    held = [row_of(f"c{n} d{n}", label="c", group="all of c") for n in range(3)]

    stays, drawn = draw_split([*giant, *some, *others, *held], 0.1, seed, 0.8)

    assert {row.label for row in drawn} == {"a", "b"}, "c stands in one group, which must be learnt"
    assert {row.label for row in stays} == {"a", "b", "c"}
    assert len(drawn) < 30


def test_a_group_that_grows_after_the_freeze_does_not_leak_into_training(write_rows):
    def rows(each):
        return [
            {"prompt": f"ask{n}x{m} about{n}x{m}", "completion": "yes", "customer": f"c{n}"}
            for n in range(20)
            for m in range(each)
        ]

    recipe = recipe_for(write_rows("rows.jsonl", rows(2)), group="customer", test_share=0.2)
    before = load(recipe)
    write_rows("rows.jsonl", rows(4))
    after = load(recipe)

    asked = {row.group for row in after.split.test}
    assert [row.answer for row in before.split.test] == [row.answer for row in after.split.test]
    assert not asked & {row.group for row in (*after.split.train, *after.split.validation)}
    assert len(after.split.train) > len(before.split.train)
    assert any("their groups are in the test rows" in note for note in after.notes)


def test_copies_of_a_test_question_are_one_draw(write_rows):
    once = [{"prompt": f"ask{n} about{n}", "completion": "yes"} for n in range(12)]
    test = write_rows("test.jsonl", [*once, *once[:6], *once[:6]])
    learnt = [{"prompt": f"learn{n} of{n}", "completion": "no"} for n in range(12)]

    dataset = load(recipe_for(write_rows("train.jsonl", learnt), test=[str(test)]))

    groups = Counter(row.group or row.id for row in dataset.split.test)
    assert sorted(groups.values()) == [1] * 6 + [3] * 6
    assert any("24 test questions are of 12 groups" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"tools": ({"type": "function", "function": {"name": "look_up"}},)},
        {"item": {"reference": "other"}},
        {"messages": (Message("user", "ask"), Message("assistant", "x", weight=0.0))},
    ],
    ids=["tools", "keys of graders", "weights"],
)
def test_whatever_a_training_or_a_grader_sees_is_in_the_hash_of_a_row(change):
    row = row_of("ask")

    assert content_hash(replace(row, **change)) != content_hash(row)
    assert earlier_hash(replace(row, **change)) == earlier_hash(row) == content_hash(row)


def test_a_number_beside_a_row_makes_it_no_other_row_to_say_twice():
    rows = [replace(row_of("ask something long"), item={"id": n}, line=n) for n in (1, 2)]
    tools = [replace(rows[0], tools=({"name": name},), line=n) for n, name in ((3, "a"), (4, "b"))]

    assert "exact_duplicate" in {one.code for one in check_rows("f", rows, 0.8)}
    assert "exact_duplicate" not in {one.code for one in check_rows("f", tools, 0.8)}


def test_a_test_split_that_was_frozen_by_its_earlier_hashes_is_found(write_rows):
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"ask{n} about{n}"},
                {"role": "assistant", "content": "yes"},
            ],
            "tools": tools,
        }
        for n in range(20)
    ]
    recipe = recipe_for(write_rows("rows.jsonl", rows))
    first = load(recipe).split.test
    (file,) = (workspace() / "frozen").glob("*.json")
    content = json.loads(file.read_text())
    content.pop("form")
    file.write_text(json.dumps({**content, "rows": [earlier_hash(row) for row in first]}))

    assert load(recipe).split.test == first
    assert json.loads(file.read_text())["rows"] == [content_hash(row) for row in first]


def test_questions_alone_are_no_task_to_guess():
    asked = [Row(messages=(Message("user", f"where is {n}?"),)) for n in range(9)]

    task, reason = infer_task(asked, Task())

    assert (task.kind, reason) == ("generation", "Task: generation (no row has an answer).")


def test_a_sample_is_drawn_by_seed_in_order():
    rows = [row_of(f"w{n}") for n in range(50)]

    some = sample_rows(rows, 10, 0)

    assert len(some) == 10 and list(some) == [row for row in rows if row in some]
    assert sample_rows(rows, 10, 1) != some and sample_rows(rows, None, 0) == tuple(rows)


def test_loading_splits_infers_and_puts_the_prompt_before_each_row(write_rows):
    file = write_rows("rows.jsonl", labelled(100))
    recipe = make_recipe({"data": {"train": [str(file)]}, "task": {"prompt": "Sort it."}})

    data = load(recipe)

    sizes = [len(part) for part in (data.split.train, data.split.validation, data.split.test)]
    assert sizes == [72, 8, 20] and data.task.labels == ("green", "red")
    assert data.task.kind == "classification"
    assert all(row.messages[0].content == "Sort it." for row in data.split.test)


def test_the_test_split_is_frozen_and_a_changed_file_is_refused(write_rows):
    train, test = write_rows("a.jsonl", labelled(60)), write_rows("b.jsonl", [
        {"text": "quite another text", "label": "red"}, {"text": "and one more", "label": "green"},
    ])  # fmt: skip
    recipe = recipe_for(train, test=[str(test)])
    first = load(recipe)

    assert load(recipe).split.test_hash == first.split.test_hash
    test.write_text(test.read_text().replace("quite", "not quite"))
    with pytest.raises(TestSplitChanged, match="1 rows are gone, 1 are new"):
        load(recipe)
    thaw(recipe.data)
    assert load(recipe).split.test_hash != first.split.test_hash


def test_a_drawn_test_split_stays_when_rows_are_added_and_is_missed_when_they_go(write_rows):
    rows = labelled(100)
    recipe = recipe_for(write_rows("rows.jsonl", rows))
    first = load(recipe)

    write_rows(
        "rows.jsonl", [*rows, *[{"text": f"new{n} row{n}", "label": "red"} for n in range(9)]]
    )
    grown = load(recipe)
    assert grown.split.test_hash == first.split.test_hash
    assert len(grown.split.train) + len(grown.split.validation) == 89

    write_rows("rows.jsonl", rows[:50])
    with pytest.raises(TestSplitChanged, match="no longer in the data"):
        load(recipe)


def test_training_rows_that_stand_in_the_test_rows_are_left_out_with_a_note(write_rows):
    rows = labelled(60)
    test = write_rows("test.jsonl", [rows[0], {"text": rows[1]["text"] + " ok", "label": "green"}])
    data = load(recipe_for(write_rows("train.jsonl", rows), test=[str(test)]))

    asked = {row.prompt[-1].content for row in data.split.train}

    assert rows[0]["text"] not in asked
    assert any("Left out" in note for note in data.notes)


def test_naming_one_file_twice_is_refused(write_rows):
    file = write_rows("rows.jsonl", labelled(60))

    with pytest.raises(BadData, match="are in the test rows too"):
        load(recipe_for(file, test=[str(file)]))


def test_rows_with_errors_are_refused_with_their_numbers(write_rows):
    file = write_rows("rows.jsonl", [*labelled(20), {"text": "no label", "label": ""}])

    with pytest.raises(BadData, match="row 21: The answer is empty"):
        load(recipe_for(file))


def test_an_empty_file_is_refused_by_its_name(write_rows, tmp_path):
    file = write_rows("rows.jsonl", labelled(60))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")

    with pytest.raises(BadData, match=r"empty\.jsonl: The file holds no rows"):
        load(recipe_for(empty))
    with pytest.raises(BadData, match=r"empty\.jsonl: The file holds no rows"):
        load(make_recipe({"data": {"train": [str(file), str(empty)]}}))


def test_what_was_inferred_and_what_seems_wrong_is_said(write_rows, capsys):
    set_reporter(LineReporter())
    table = [{"text": f"ticket {n} of row {n * 7}", "queue": "repair"} for n in range(60)]

    load(recipe_for(write_rows("rows.jsonl", table))).announce()
    load(recipe_for(write_rows("fine.jsonl", labelled(60)))).announce()

    said, fine = capsys.readouterr().err.split("data.format=text.")
    assert "Task: generation (the rows are plain text)." in said
    assert "Warning: rows.jsonl, row 1: `text` is read as plain text; other columns" in said
    assert "2 labels" in fine and "Warning" not in fine


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["yes", "no"] * 10, "classification"),
        ([json.dumps({"a": n}) for n in range(20)], "extraction"),
        ([f"name{n}" for n in range(20)], "qa"),
        ([f"a rather long answer about thing number {n}, told in words" for n in range(9)],
         "generation"),
    ],
)  # fmt: skip
def test_the_task_is_inferred_with_a_reason(answers, kind):
    rows = [row_of(f"q{n}", say) for n, say in enumerate(answers)]

    task, reason = infer_task(rows, Task())

    assert task.kind == kind and reason.startswith(f"Task: {kind} (")
