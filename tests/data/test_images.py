"""Pictures of rows: by data URL, by name, in a column, in a parquet file."""

import base64
import json

import polars
import pytest

from burnish import api
from burnish.core.recipe.data import Data, Task
from burnish.data.check import check
from burnish.data.read import read_files
from tests.fixtures.vision_models import COLOURS, image_file, lines


@pytest.fixture
def folder(tmp_path):
    """A folder of pictures, and a secret beside it."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for colour in COLOURS:
        (pictures / f"{colour}.png").write_bytes(image_file(colour))
    (tmp_path / "secret.png").write_bytes(image_file("red"))
    return pictures


def rows_of(folder, records, **settings):
    file = folder.parent / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_files([file], Data.model_validate(settings), Task())


def turns(*parts, answer="red"):
    return {"messages": [{"role": "user", "content": list(parts)},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


WHICH = {"type": "text", "text": "Which colour?"}


def test_a_column_of_pictures_that_nobody_names_is_told(folder):
    asked = {"prompt": "Which colour has red.png?", "completion": "red"}
    url = "data:image/png;base64," + base64.b64encode(image_file("red")).decode()
    records = [
        asked,
        *({**asked, "photo": one} for one in ("red.png", url, ["a.JPG"], {"path": "b.webp"})),
    ]

    for images in (None, folder):
        (finding,) = rows_of(folder, records, images=images).findings
        assert (finding.code, finding.severity) == ("unread_pictures", "warning")
        assert finding.rows == (2, 3, 4, 5) and "data.columns.image=photo" in finding.fix
    table = folder.parent / "rows.parquet"
    photo = {"bytes": image_file("red"), "path": None}
    polars.DataFrame([{**asked, "photo": photo}]).write_parquet(table)
    (finding,) = read_files([table], Data(), Task()).findings
    assert finding.code == "unread_pictures"


@pytest.mark.parametrize(
    "record",
    [
        turns({"type": "image_url", "image_url": {"url": "red.png"}}, WHICH),
        turns({"type": "image_url", "image_url": "red.png"}, WHICH),
        turns({"type": "image", "path": "red.png"}, WHICH),
        {**turns({"type": "image"}, WHICH), "images": ["red.png"]},
        {**turns(WHICH), "images": "red.png"},
        {"prompt": "Which colour?", "completion": "red", "photo": "red.png"},
        {"text": "Which colour?", "label": "red", "photo": ["red.png"]},
    ],
)
def test_a_name_is_looked_up_in_the_folder(folder, record):
    column = {"image": "photo"} if "photo" in record else {}
    found = rows_of(folder, [record], images=folder, columns=column)

    assert not found.findings
    (row,) = found.rows
    assert [part if isinstance(part, str) else part.data for part in row.prompt[0].parts] == [
        image_file("red"),
        "Which colour?",
    ]
    assert row.answer == "red"


def test_where_a_picture_stands_is_kept(folder):
    between = turns(
        {"type": "text", "text": "Is"},
        {"type": "image", "path": "red.png"},
        {"type": "text", "text": "like"},
        {"type": "image", "path": "blue.png"},
        answer="no",
    )
    (row,) = rows_of(folder, [between], images=folder).rows

    assert [part if isinstance(part, str) else part.data for part in row.prompt[0].parts] == [
        "Is", image_file("red"), "like", image_file("blue")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../secret.png", "outside"),
        ("/etc/hostname", "outside"),
        ("none.png", "no image"),
        ("https://example.org/red.png", "no image"),
    ],
)
def test_nothing_outside_the_folder_is_read(folder, name, why):
    found = rows_of(folder, [turns({"type": "image", "path": name}, WHICH)], images=folder)

    assert not found.rows
    assert why in found.findings[0].message


def test_without_a_folder_names_are_no_files(folder):
    name = str(folder / "red.png")
    found = rows_of(folder, [turns({"type": "image_url", "image_url": {"url": name}}, WHICH)])

    assert not found.rows
    assert "data URL" in found.findings[0].message


def test_more_places_than_pictures_is_a_finding(folder):
    record = {**turns({"type": "image"}, {"type": "image"}, WHICH), "images": ["red.png"]}

    (finding,) = rows_of(folder, [record], images=folder).findings

    assert "more image parts" in finding.message


def test_an_answer_holds_no_picture(folder):
    record = turns(WHICH)
    record["messages"][1]["content"] = [{"type": "image", "path": "red.png"}]

    (finding,) = rows_of(folder, [record], images=folder).findings

    assert "answer" in finding.message


def test_a_parquet_file_brings_its_pictures_along(tmp_path):
    file = tmp_path / "rows.parquet"
    polars.DataFrame(
        {
            "prompt": ["Which?", "Which?"],
            "completion": ["red", "blue"],
            "image": [{"bytes": image_file(one), "path": None} for one in ("red", "blue")],
        }
    ).write_parquet(file)

    found = read_files([file], Data.model_validate({"columns": {"image": "image"}}), Task())

    assert [row.prompt[0].images[0].data for row in found.rows] == [
        image_file("red"), image_file("blue")
    ]  # fmt: skip


def test_the_same_question_about_other_pictures_is_another_question(tmp_path):
    file = tmp_path / "rows.jsonl"
    long = "Which colour has the card that lies on the table in front of the man with the hat?"
    file.write_text("\n".join(lines(6)).replace("Which colour?", long))
    found = read_files([file], Data(), Task())

    codes = {finding.code for finding in check(found, 0.8)}

    assert len(found.rows) == 6
    assert codes == {"few_rows"}


def test_the_same_question_about_the_same_picture_twice_is_found(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*lines(2), *lines(1)]))

    codes = {finding.code for finding in check(read_files([file], Data(), Task()), 0.8)}

    assert "exact_duplicate" in codes


def test_a_folder_that_is_named_in_words_is_found_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "rows.csv").write_text("photo,question,answer\nred.png,Which?,red\n")
    changes = ["data.images=pictures", "data.columns.image=photo", "rag.documents=[pictures]"]

    recipe = api.resolve(train=["rows.csv"], changes=changes)

    assert recipe.data.images == folder
    assert recipe.rag.documents == (folder,)
    monkeypatch.chdir("/")
    (row,) = read_files(recipe.data.train, recipe.data, recipe.task).rows
    assert row.prompt[0].images[0].data == image_file("red")
