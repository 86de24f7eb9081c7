"""A recipe is closed, frozen and typed; what ran is what was written."""

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import Recipe, load_recipe, make_recipe, recipe_schema


def written(folder, text):
    file = folder / "burnish.yaml"
    file.write_text(text)
    return file


def test_an_unknown_key_names_its_line_and_the_nearest_key(tmp_path):
    file = written(tmp_path, "task: {kind: qa}\ntrain:\n  lerning_rate: 1.0e-4\n")

    with pytest.raises(BadRecipe) as caught:
        load_recipe(file)

    assert "line 3" in caught.value.what and "train.lerning_rate" in caught.value.what
    assert "`learning_rate`" in caught.value.fix


def test_an_unknown_key_inside_a_method_is_looked_for_in_that_method(tmp_path):
    file = written(tmp_path, "train:\n  method: {kind: lora, rnak: 8}\n")

    with pytest.raises(BadRecipe, match=r"`train.method.rnak`\.\nDid you mean `rank`"):
        load_recipe(file)


def test_a_value_out_of_range_names_its_line(tmp_path):
    with pytest.raises(BadRecipe, match=r"line 2: `train.epochs` is -1"):
        load_recipe(written(tmp_path, "train:\n  epochs: -1\n"))


def test_a_key_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(BadRecipe, match=r"line 3: `train.epochs` stands already on line 2"):
        load_recipe(written(tmp_path, "train:\n  epochs: 1\n  epochs: 2\n"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "a: [1,\n", "\x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    with pytest.raises(BadRecipe):
        load_recipe(written(tmp_path, text))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.CSV", "rows.parquet"])
def test_rows_in_the_place_of_a_recipe_are_pointed_to_their_flag(tmp_path, name):
    with pytest.raises(BadRecipe, match=f"--train .*{name}"):
        load_recipe(tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadRecipe, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "rank"), [("method: lora", 16), ("method: {rank: 8}", 8), ("method: {kind: lora}", 16)]
)
def test_the_usual_kind_may_be_left_out(tmp_path, text, rank):
    assert load_recipe(written(tmp_path, f"train: {{{text}}}\n")).train.method.rank == rank


def test_relative_files_count_from_the_recipes_folder(tmp_path):
    recipe = load_recipe(written(tmp_path, "data: {train: rows.jsonl}\n"))

    assert recipe.data.train == (tmp_path / "rows.jsonl",)


def test_a_change_reads_numbers_lists_and_short_kinds():
    changes = ["train.learning_rate=1e-4", "data.train=[a.jsonl, b.jsonl]", "train.method=full"]

    recipe = make_recipe({}, changes)

    assert recipe.train.learning_rate == 1e-4
    assert [path.name for path in recipe.data.train] == ["a.jsonl", "b.jsonl"]
    assert recipe.train.method.kind == "full"


@pytest.mark.parametrize("change", ["train.epochs", "=1", "train.epochs=[", "nothing.here=1"])
def test_a_change_that_makes_no_sense_is_refused(change):
    with pytest.raises(BadRecipe):
        make_recipe({}, [change])


def test_a_saved_recipe_loads_as_the_same_recipe(tmp_path):
    recipe = make_recipe(
        {}, ["train.method.rank=4", "task.kind=qa", f"data.train={tmp_path}/r.csv"]
    )
    recipe.save(tmp_path / "recipe.yaml")

    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_the_published_schema_accepts_a_recipe_and_refuses_an_unknown_key():
    schema = recipe_schema()
    values = make_recipe({}).model_dump(mode="json")

    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, "trian": {}}, schema)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_any_mapping_is_a_recipe_or_a_clear_refusal(values):
    try:
        assert isinstance(make_recipe(yaml.safe_load(yaml.safe_dump(values)) or {}), Recipe)
    except BadRecipe as refusal:
        assert refusal.what
