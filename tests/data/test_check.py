"""Every planted defect is found, with its rows."""

import random

import pytest

from burnish.core.recipe.data import Data, Task
from burnish.core.records import Message, Row
from burnish.data.check import check, check_rows, find_leaks
from burnish.data.duplicates import find_near_pairs
from burnish.data.findings import CODES
from burnish.data.pii import find_pii_kinds
from burnish.data.read import read_files


def pair(ask, say="fine", line=1, label=None):
    messages = (Message("user", ask), Message("assistant", say))
    return Row(messages=messages, label=label, file="f", line=line)


def found(rows):
    return {finding.code: finding.rows for finding in check_rows("f", rows, 0.8)}


def test_good_rows_have_no_findings():
    rows = [pair(f"question number {n} about {n * n}", f"answer {n}", n) for n in range(60)]

    assert found(rows) == {}


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([("user", "hi")], "no_assistant_turn"),
        ([("user", "hi"), ("assistant", "  ")], "empty_answer"),
        ([("user", ""), ("assistant", "a")], "empty_prompt"),
        ([("assistant", "a"), ("user", "b")], "wrong_role"),
        ([("user", "a"), ("system", "s"), ("assistant", "b")], "wrong_role"),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "wrong_role"),
        ([("user", "a" * 100_001), ("assistant", "c")], "long_text"),
    ],
)
def test_a_defect_of_one_row_is_found(messages, code):
    row = Row(messages=tuple(Message(role, text) for role, text in messages), file="f", line=9)

    assert found([row])[code] == (9,)


def test_repeats_conflicts_and_rare_labels_are_found():
    rows = [
        pair("where is my parcel now", "soon", 1, "a"),
        pair("where is my parcel now", "soon", 2, "a"),
        pair("Where is my parcel now?", "gone", 3, "b"),
        pair("please tell me where my big green parcel is right now", "x", 4, "a"),
        pair("please tell me where my big green parcel is right now ok", "x", 5, "a"),
    ]

    findings = found(rows)

    assert findings["exact_duplicate"] == (1, 2)
    assert findings["conflicting_answers"] == (1, 2, 3)
    assert {4, 5} <= set(findings["near_duplicate"])
    assert 3 in findings["label_balance"]
    assert findings["few_rows"] == (1, 2, 3, 4, 5)


def test_turns_that_are_learnt_in_several_rows_are_found():
    talk = [Message("user", "Where is it?"), Message("assistant", "Here."),
            Message("user", "And the other?"), Message("assistant", "There.")]  # fmt: skip
    short = Row(tuple(talk[:2]), file="rows.jsonl", line=1)
    whole = Row(tuple(talk), file="rows.jsonl", line=2)
    other = Row((Message("user", "Who?"), Message("assistant", "I.")), file="rows.jsonl", line=3)

    assert found([short, whole, other])["learnt_again"] == (1,)
    for rows in ([short, whole.until(3), other], [whole, other]):
        assert "learnt_again" not in found(rows)


def test_leaks_and_unseen_labels_across_files_are_found(write_rows):
    train = write_rows("train.jsonl", [
        {"text": "my card was stolen on the train", "label": "lost"},
        {"text": "please raise the limit of my credit card today", "label": "limit"},
    ])  # fmt: skip
    test = write_rows("test.jsonl", [
        {"text": "My card was stolen on the train!", "label": "lost"},
        {"text": "please raise the limit of my credit card today now", "label": "fraud"},
    ])  # fmt: skip

    by_code = {f.code: f for f in check(read_files([train, test], Data(), Task()), 0.8)}

    assert by_code["split_leak"].rows == (1,) and by_code["split_leak"].file == str(train)
    assert by_code["near_leak"].rows == (2,)
    assert by_code["unseen_label"].rows == (2,) and "fraud" in by_code["unseen_label"].fix


def test_planted_near_duplicates_are_all_found_and_nothing_else():
    """Recall and precision on seeded defects: 100 texts, 40 of them with one word changed."""
    chance = random.Random(0)
    words = [f"word{n}" for n in range(2000)]
    texts = [" ".join(chance.sample(words, 25)) for _ in range(100)]
    planted = set()
    for place in range(40):
        changed = texts[place].split()
        changed[chance.randrange(25)] = "other"
        planted.add((place, len(texts)))
        texts.append(" ".join(changed))

    assert set(find_near_pairs(texts, 0.8)) == planted


def test_the_frame_of_a_prompt_makes_no_duplicates():
    frame = "Read the customer's message below and name the department that should answer it: "
    rows = [pair(frame + f"thing{n} colour{n}", f"a{n}", n) for n in range(30)]

    assert find_leaks(rows[:15], rows[15:], 0.8) == ([], [])


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to jo.doe+x@mail.desk.internal please", ["mail address"]),
        ("card 4111 1111 1111 1111 exp 12/29", ["card number"]),
        ("IBAN DE89 3704 0044 0532 0130 00", ["IBAN"]),
        ("call +44 20 7946 0958 today", ["phone number"]),
        ("order 4111 1111 1111 1112, version 1.2.3, 2026-11-21, 12345678", []),
        ("user@home, price 3.99@2, jo@mail.example.org, jo@firm.example", []),
        ("0000 0000 0000 0000", []),
    ],
)
def test_personal_data_is_told_from_other_numbers(text, kinds):
    assert find_pii_kinds(text) == kinds


def test_findings_never_repeat_the_personal_data():
    (finding,) = (
        f for f in check_rows("f", [pair("mail me: jo@mail.desk.internal")], 0.8)
        if f.code == "personal_data"
    )  # fmt: skip

    assert "jo@" not in finding.message + finding.fix and "mail address" in finding.message


def test_every_code_says_what_it_means_and_what_to_do():
    for code, (severity, message, fix) in CODES.items():
        assert severity in ("error", "warning", "note") and message.endswith("."), code
        assert fix.endswith("."), code


def test_text_that_was_decoded_wrongly_is_found():
    rows = [pair("Größe nummer 1?", "schön", 1), pair("GrÃ¶ÃŸe nummer 2?", "schÃ¶n", 2)]

    assert found(rows)["garbled"] == (2,)


def test_an_empty_file_is_an_error(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n")

    (finding,) = check(read_files([file], Data(), Task()), 0.8)

    assert (finding.code, finding.severity) == ("no_rows", "error")
