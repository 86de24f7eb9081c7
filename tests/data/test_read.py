"""Files in every shape become rows; a broken row is a finding with its number."""

import json

import polars
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.core.errors import BadData, BurnishError, NotFound
from burnish.core.recipe.data import Columns, Data, Task
from burnish.data.formats import FORMATS
from burnish.data.read import READERS, read_files

relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rows_of(file, **data):
    return read_files([file], Data(**data), Task())


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_of_every_format_is_read_as_that_format(tmp_path, name):
    file = tmp_path / "rows.jsonl"
    file.write_text(FORMATS[name].example + "\n")

    found = rows_of(file)

    assert found.findings == () and len(found.rows) == 1
    assert found.rows[0] == rows_of(file, format=name).rows[0]
    assert found.rows[0].answer or found.rows[0].text or name == "prompts"


def test_chat_rows_keep_weight_name_and_tools(write_rows):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "2+2?", "name": "Ann"},
        {"role": "assistant", "content": "5", "weight": 0},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
        {"role": "assistant", "content": [{"type": "text", "text": "4"}]},
    ]
    file = write_rows("chat.jsonl", [{"messages": messages, "tools": [{"type": "function"}]}])

    (row,) = rows_of(file).rows

    assert [message.weight for message in row.messages] == [1, 0, 1, 1, 1, 1]
    assert row.messages[0].name == "Ann" and row.messages[4].tool_call_id == "c1"
    assert row.tools == ({"type": "function"},) and row.answer == "4"


def test_a_column_map_names_what_holds_what(tmp_path):
    frame = polars.DataFrame(
        {"ticket": ["Lamp broken"], "reply": ["Sorry"], "queue": ["repair"], "customer": ["K1"]}
    )
    frame.write_csv(tmp_path / "t.csv")
    frame.write_csv(tmp_path / "t.tsv", separator="\t")
    frame.write_parquet(tmp_path / "t.parquet")
    for suffix in ("csv", "tsv", "parquet"):
        file = tmp_path / f"t.{suffix}"
        (pair,) = rows_of(file, columns=Columns(prompt="ticket", completion="reply")).rows
        (label,) = rows_of(
            file, columns=Columns(prompt="ticket", label="queue"), group="customer"
        ).rows

        assert (pair.prompt[0].content, pair.answer) == ("Lamp broken", "Sorry")
        assert (label.label, label.answer, label.group) == ("repair", "repair", "K1")


def test_alpaca_sharegpt_context_and_system_become_turns(write_rows):
    alpaca = write_rows("a.jsonl", [{"instruction": "Say", "input": "hi", "output": "hi"}])
    sharegpt = write_rows(
        "s.jsonl",
        [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
    )
    pair = write_rows(
        "p.jsonl",
        [{"question": "Who?", "context": "Ann came.", "answer": "Ann", "system": "Brief"}],
    )

    assert rows_of(alpaca).rows[0].prompt[0].content == "Say\n\nhi"
    assert rows_of(sharegpt).rows[0].answer == "b"
    system, user = rows_of(pair).rows[0].prompt
    assert (system.content, user.content) == ("Brief", "Ann came.\n\nWho?")


def test_broken_rows_are_findings_with_their_numbers_and_the_others_are_read(tmp_path):
    good = '{"prompt": "a", "completion": "b"}'
    lines = [good, '{"prompt": ', "[1]", '{"prompt": "x"}', "", good]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))

    found = rows_of(tmp_path / "rows.jsonl")

    numbers = {finding.rows for finding in found.findings}
    assert numbers == {(2,), (3,), (4,)}
    assert [row.line for row in found.rows] == [1, 6]
    assert all(finding.fix and finding.severity == "error" for finding in found.findings)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("caf\xe9".encode("cp1252"), "encoding"),
        ('{"text": "a"}\n'.encode("utf-16"), "encoding"),
        (b"\xef\xbb\xbf" + b'{"text": "a"}\r\n', "bom"),
    ],
)
def test_encodings_are_named(tmp_path, content, code):
    (tmp_path / "rows.jsonl").write_bytes(content)

    assert [finding.code for finding in rows_of(tmp_path / "rows.jsonl").findings] == [code]


def test_unknown_roles_and_shapes_are_named(write_rows):
    wrong = write_rows("r.jsonl", [{"messages": [{"role": "asistant", "content": "a"}]}])
    shapeless = write_rows("n.jsonl", [{"foo": 1, "bar": 2}])

    assert "asistant" in rows_of(wrong).findings[0].message
    with pytest.raises(BadData, match=r"keys bar, foo.*\n.*data\.columns\.prompt"):
        rows_of(shapeless)


def test_paragraphs_of_plain_text_are_rows(tmp_path):
    (tmp_path / "book.txt").write_text("One.\nStill one.\n\n\nTwo.\n")

    assert [(r.text, r.line) for r in rows_of(tmp_path / "book.txt").rows] == [
        ("One.\nStill one.", 1),
        ("Two.", 5),
    ]


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path):
    (tmp_path / "rows.docx").write_text("x")
    with pytest.raises(NotFound):
        rows_of(tmp_path / "none.jsonl")
    with pytest.raises(BadData, match=r"\.jsonl"):
        rows_of(tmp_path / "rows.docx")


@relaxed
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path, pairs):
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": ask, "completion": say}) for ask, say in pairs]
    file.write_text("\n".join(lines))

    rows = rows_of(file).rows

    assert [(row.prompt[0].content, row.answer) for row in rows] == pairs


@relaxed
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path, suffix, content):
    file = tmp_path / f"any{suffix}"
    file.write_bytes(content)
    try:
        rows_of(file)
    except BurnishError as refusal:
        assert refusal.what


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_the_header_tells_what_separates_columns(separator, tmp_path):
    file = tmp_path / "rows.csv"
    lines = [separator.join(pair) for pair in (("text", "label"), ('"a; b, c"', "x"), ("d", "y"))]
    file.write_text("\n".join(lines) + "\n")

    assert [(row.prompt[-1].content, row.label) for row in rows_of(file).rows] == [
        ("a; b, c", "x"), ("d", "y"),
    ]  # fmt: skip


def test_thoughts_are_told_from_answers_in_every_shape(write_rows):
    said, whole = "Athens", "<think>\nGreece?\n</think>\n\nAthens"
    asked = {"role": "user", "content": "Capital?"}
    shapes = {
        "chat": {"messages": [asked, {"role": "assistant", "content": whole}]},
        "beside": {
            "messages": [
                asked, {"role": "assistant", "content": said, "reasoning_content": "Greece?"}
            ]
        },
        "sharegpt": {
            "conversations": [
                {"from": "human", "value": "Capital?"}, {"from": "gpt", "value": whole}
            ]
        },
        "pairs": {"prompt": "Capital?", "completion": whole},
        "alpaca": {"instruction": "Capital?", "output": whole},
        "preference": {"prompt": "Capital?", "chosen": whole, "rejected": "Rome"},
    }  # fmt: skip
    for name, record in shapes.items():
        (row,) = rows_of(write_rows(f"{name}.jsonl", [record])).rows
        assert (row.answer, row.messages[-1].reasoning) == (said, "Greece?"), name
        assert row.messages[-1].text_with_reasoning == whole


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, ["queue, ticket"]),
        ({"group": "ticket"}, ["queue"]),
        ({"group": "ticket", "question_type": "queue"}, []),
        ({"format": "text"}, []),
        ({"columns": Columns(prompt="text", label="queue")}, []),
        ({"columns": Columns(text="queue")}, ["text, ticket"]),
    ],
)
def test_columns_beside_plain_text_are_a_warning(tmp_path, data, said):
    file = tmp_path / "rows.csv"
    file.write_text("text,queue,ticket\nLamp dark,repair,7\nPlug hot,repair,8\n")

    found = rows_of(file, **data)

    assert len(found.rows) == 2
    assert [finding.code for finding in found.findings] == ["unread_columns"] * len(said)
    assert all(f"ignored: {said[0]}." in finding.message for finding in found.findings)
