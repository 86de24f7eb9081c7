"""Rows as other tools and careless exports write them: read as meant, or refused by number.

Each input is the smallest form of a complaint that people have filed about such tools.
"""

import json

import polars
import pytest

from burnish.core.recipe.data import Data, Task
from burnish.data.check import check
from burnish.data.read import read_files

ASKED = {"role": "user", "content": "The lamp is broken."}
SAID = {"role": "assistant", "content": "Sorry."}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
FOUND = {"role": "tool", "tool_call_id": "a", "content": "found"}
HALF = '{"text": "half an emoji \\ud83d", "label": "a"}'


def read_lines(tmp_path, *lines, name="rows.jsonl", **data):
    file = tmp_path / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_files([file], Data(**data), Task())


def read_rows(tmp_path, *records):
    return read_lines(tmp_path, *map(json.dumps, records))


def talk(*turns, **more):
    return {"messages": [*turns], **more}


def codes(found):
    return {finding.code: finding.rows for finding in check(found, 0.8)}


@pytest.mark.parametrize(
    "line",
    [
        HALF,
        '{"text": "a", "label": NaN}',
        '{"text": "a", "label": "b", "score": -Infinity}',
        '{"text": "a", "label": "b", "score": 1e999}',
        '{"text": "a", "label": "b", "id": ' + "7" * 5_000 + "}",
        '{"text": "a", "label": ' + "[" * 100_000 + "}",
    ],
    ids=["surrogate", "nan", "infinity", "exponent", "digits", "depth"],
)
def test_what_json_cannot_hold_is_a_finding_with_its_row(tmp_path, line):
    good = '{"text": "The lamp.", "label": "a"}'

    found = read_lines(tmp_path, good, line, good)

    assert [row.line for row in found.rows] == [1, 3]
    assert [(one.code, one.rows) for one in found.findings] == [("broken_json", (2,))]


def test_a_broken_entry_of_an_array_is_named_and_the_others_are_read(tmp_path):
    good = '{"text": "The lamp.", "label": "a"}'
    huge = '{"text": "a", "label": "b", "id": ' + "7" * 5_000 + "}"

    found = read_lines(tmp_path, f"[{good}, {huge}, {HALF}, {good}]", name="rows.json")

    assert [row.line for row in found.rows] == [1, 4]
    assert [one.rows for one in found.findings] == [(2,), (3,)]


def test_whole_emojis_large_numbers_and_the_word_nan_stay(tmp_path):
    found = read_lines(
        tmp_path, '{"text": "\\ud83d\\ude00 nan Infinity", "label": "nan", "id": 9007199254740993}'
    )

    assert found.findings == () and found.rows[0].label == "nan"
    assert found.rows[0].messages[0].content == "😀 nan Infinity"


@pytest.mark.parametrize(
    "calls", [[CALL], json.dumps([CALL])], ids=["list", "text"]
)  # fmt: skip
@pytest.mark.parametrize("arguments", ['{"x": 1}', {"x": 1}], ids=["text", "object"])
def test_tool_calls_read_alike_however_they_are_kept(tmp_path, calls, arguments):
    own = {**CALL, "function": {"name": "look", "arguments": arguments}}
    kept = json.dumps([own]) if isinstance(calls, str) else [own]
    calling = {"role": "assistant", "content": None, "tool_calls": kept}

    found = read_rows(tmp_path, talk(ASKED, calling, FOUND, SAID, tools=json.dumps([TOOL])))

    (row,) = found.rows
    assert row.messages[1].tool_calls == (CALL,) and row.tools == (TOOL,)
    assert "learnt_again" not in codes(found)


@pytest.mark.parametrize(
    "calls",
    [
        {"id": "a"}, [None], "[", [{"id": "a"}], [{"function": {"name": "f", "arguments": "{"}}],
        [{"function": {"name": "f", "arguments": "[1]"}}], [{"function": {"name": 3}}],
    ],
    ids=["object", "null", "no json", "no function", "cut", "a list", "a number"],
)  # fmt: skip
def test_tool_calls_that_call_nothing_are_refused_with_a_fix(tmp_path, calls):
    calling = {"role": "assistant", "content": None, "tool_calls": calls}

    (finding,) = read_rows(tmp_path, talk(ASKED, calling, FOUND, SAID)).findings

    assert finding.code == "wrong_shape" and finding.rows == (1,) and finding.fix


def test_arguments_that_are_absent_are_an_empty_object(tmp_path):
    for arguments in ("", None):
        calling = {"role": "assistant", "tool_calls": [
            {"id": "a", "function": {"name": "look", "arguments": arguments}}]}  # fmt: skip

        (row,) = read_rows(tmp_path, talk(ASKED, calling, FOUND, SAID)).rows

        assert row.messages[1].tool_calls[0]["function"]["arguments"] == "{}"


def test_null_is_as_good_as_absent(tmp_path):
    empty = {"weight": None, "name": None, "tool_calls": None, "tool_call_id": None}
    rows = talk({**ASKED, **empty}, {**SAID, **empty}, tools=None)

    assert read_rows(tmp_path, rows).rows[0].messages == (
        read_rows(tmp_path, talk(ASKED, SAID)).rows[0].messages
    )


def test_openais_first_function_calls_are_tool_calls(tmp_path):
    calling = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    answer = {"role": "function", "name": "look", "content": "found"}

    (row,) = read_rows(
        tmp_path, talk(ASKED, calling, answer, SAID, functions=[TOOL["function"]])
    ).rows

    assert row.messages[1].tool_calls[0]["function"] == CALL["function"]
    assert row.messages[2].role == "tool" and row.tools == (TOOL,)


def test_a_developer_speaks_as_the_system_and_a_refusal_is_an_answer(tmp_path):
    refusing = {"role": "assistant", "content": None, "refusal": "I won't."}

    (row,) = read_rows(
        tmp_path, talk({"role": "developer", "content": "Be kind."}, ASKED, refusing)
    ).rows

    assert row.messages[0].role == "system" and row.answer == "I won't."


def test_sharegpt_rows_keep_their_tools_and_calls(tmp_path):
    (row,) = read_rows(
        tmp_path,
        {
            "conversations": [
                {"from": "human", "value": "Look."},
                {"from": "function_call", "value": '{"name": "look", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "found"},
                {"from": "gpt", "value": "There."},
            ],
            "tools": json.dumps([TOOL["function"]]),
        },
    ).rows

    assert [turn.role for turn in row.messages] == ["user", "assistant", "tool", "assistant"]
    assert row.messages[1].tool_calls[0]["function"] == CALL["function"]
    assert row.tools == (TOOL,)


def test_sharegpt_rows_may_name_role_and_content(tmp_path):
    (row,) = read_rows(tmp_path, {"conversations": [ASKED, SAID]}).rows

    assert row == read_rows(tmp_path, {"conversations": [ASKED, SAID]}).rows[0]
    assert row.answer == "Sorry."


@pytest.mark.parametrize(
    "keys", [("instruction", "output"), ("query", "response")], ids=["alpaca", "swift"]
)
def test_the_history_of_a_question_comes_before_it(tmp_path, keys):
    asked, said = keys
    record = {asked: "And now?", said: "Later.", "history": [["Hi", "Hello"], ["When?", "Soon"]]}

    (row,) = read_rows(tmp_path, record).rows

    assert [turn.content for turn in row.messages] == [
        "Hi", "Hello", "When?", "Soon", "And now?", "Later.",
    ]  # fmt: skip
    assert [turn.weight for turn in row.messages if turn.role == "assistant"] == [1, 1, 1]


def test_a_history_of_another_shape_is_refused(tmp_path):
    (finding,) = read_rows(
        tmp_path, {"instruction": "a", "output": "b", "history": ["Hi", "Hello"]}
    ).findings

    assert "history" in finding.message and finding.fix


@pytest.mark.parametrize(
    "record",
    [
        {"text": "The lamp.", "label": ["a", "b"]},
        {"instruction": "a", "output": ["good", "bad"]},
        {"prompt": "a", "completion": ["good", "bad"]},
    ],
    ids=["labels", "alpaca", "pairs"],
)
def test_of_several_answers_none_is_taken(tmp_path, record):
    (finding,) = read_rows(tmp_path, record).findings

    assert finding.code == "wrong_shape" and finding.fix


def test_messages_that_hold_no_text_are_refused_with_a_fix(tmp_path):
    for content in (None, 42, {"answer": 1}):
        (finding,) = read_rows(
            tmp_path, talk(ASKED, {"role": "assistant", "content": content})
        ).findings

        assert finding.rows == (1,) and finding.fix


def test_an_answer_of_signs_that_cannot_be_seen_is_empty(tmp_path):
    found = read_rows(tmp_path, talk(ASKED, {"role": "assistant", "content": "\u200b\u2060"}))

    assert "empty_answer" in codes(found)


def test_labels_are_one_where_nobody_can_tell_them_split_reasoning(tmp_path):
    labels = ["café", "cafe\u0301", " café "]

    found = read_rows(tmp_path, *({"text": f"Lamp {n}", "label": own}
                                  for n, own in enumerate(labels)))  # fmt: skip

    assert {row.label for row in found.rows} == {"café"} and "one_label" in codes(found)


def test_labels_in_several_forms_are_found(tmp_path):
    labels = ["refund", "Refund", "re\u200bfund", "other"]

    found = read_rows(tmp_path, *({"text": f"Lamp {n}", "label": own}
                                  for n, own in enumerate(labels)))  # fmt: skip

    assert codes(found)["label_forms"] == (1, 2, 3)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("text,label\na,b\nc,d,e\nf,g\n", 2),
        ('text,label\n"a",b\nc,d\n"e"f,g\n', 3),
        ('text,label\na,b\n"never closed,d\ne,f\n', 2),
    ],
    ids=["fields", "quote", "open"],
)
def test_a_broken_row_of_a_table_is_named_by_its_number(tmp_path, table, row):
    found = read_lines(tmp_path, table, name="rows.csv")

    assert [(one.code, one.rows) for one in found.findings] == [("broken_table", (row,))]
    assert found.rows[0].label == "b"


@pytest.mark.parametrize(
    "table",
    [
        "sep=;\ntext;label\nthe 5\" pipe;b\n",
        "text,label\rthe 5\" pipe,b\r",
        " text ;label \nthe 5\" pipe;b\n",
        "text\tlabel\nthe 5\" pipe\tb\n",
        "text|label\r\nthe 5\" pipe|b\r\n",
    ],
)  # fmt: skip
def test_tables_are_read_as_spreadsheets_write_them(tmp_path, table):
    (tmp_path / "rows.csv").write_bytes(table.encode())

    found = read_files([tmp_path / "rows.csv"], Data(), Task())

    (row,) = found.rows
    assert (row.messages[0].content, row.label, found.findings) == ('the 5" pipe', "b", ())


def test_a_quoted_name_may_hold_what_parts_columns(tmp_path):
    found = read_lines(
        tmp_path, '"text, by mail, or not";label', '"a, b";c', name="rows.csv",
        columns={"prompt": "text, by mail, or not"},
    )  # fmt: skip

    assert found.rows[0].messages[0].content == "a, b" and found.rows[0].label == "c"


def test_texts_of_a_table_stay_texts(tmp_path):
    words = ["NA", "None", "null", "nan", "007", "1e5", "true", "a\nb", "x" * 140_000]
    frame = polars.DataFrame({"text": words, "label": ["a"] * len(words)})
    frame.write_csv(tmp_path / "rows.csv")

    found = read_files([tmp_path / "rows.csv"], Data(), Task())

    assert [row.messages[0].content for row in found.rows] == words


def test_utf_16_without_a_mark_is_named(tmp_path):
    (tmp_path / "rows.csv").write_bytes("text,label\na,b\n".encode("utf-16-le"))

    (finding,) = read_files([tmp_path / "rows.csv"], Data(), Task()).findings

    assert finding.code == "encoding" and "UTF-16" in finding.message


def test_nan_in_a_parquet_file_is_a_missing_value(tmp_path):
    frame = polars.DataFrame({"text": ["a", "b"], "label": [1.0, float("nan")]})
    frame.write_parquet(tmp_path / "rows.parquet")

    found = read_files([tmp_path / "rows.parquet"], Data(), Task())

    assert [row.label for row in found.rows] == ["1.0"]
    assert [one.rows for one in found.findings] == [(2,)]
