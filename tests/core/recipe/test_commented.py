"""The commented recipe says what this version reads, and sets nothing by itself."""

import re

import pytest
import yaml

from burnish.core.errors import BadRecipe
from burnish.core.recipe.commented import FIRST, commented_recipe
from burnish.core.recipe.recipe import Recipe, load_recipe, make_recipe


def test_a_recipe_with_nothing_set_is_the_default_one(tmp_path):
    (tmp_path / "burnish.yaml").write_text(commented_recipe({}))

    assert load_recipe(tmp_path / "burnish.yaml") == make_recipe()


def test_every_field_stands_in_the_comments_with_its_default():
    text = commented_recipe({})
    read = yaml.safe_load(re.sub(r"^(  )# ", r"\1", text, flags=re.MULTILINE))

    assert tuple(read) == FIRST
    assert make_recipe(read) == make_recipe()
    for name in FIRST:
        section = Recipe.model_fields[name].default
        assert list(read[name]) == list(type(section).model_fields)
        for field in type(section).model_fields.values():
            prose = re.sub(r"\s*\n\s*##", "", text)
            assert (field.description or "") in prose
    assert all(f"##   {name}: " in text for name in Recipe.model_fields if name not in FIRST)


def test_a_section_that_is_misspelt_is_no_empty_section(tmp_path):
    (tmp_path / "burnish.yaml").write_text("trian:\n  # epochs: 1\n")

    with pytest.raises(BadRecipe, match="no key `trian`"):
        load_recipe(tmp_path / "burnish.yaml")
