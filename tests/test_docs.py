"""The docs say what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from burnish.core import errors
from burnish.core.recipe.recipe import make_recipe
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.registry import TRAINERS
from tests.write_docs import PAGES, ROOT, WORDS


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_fresh(name):
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


def test_the_readme_names_only_commands_and_files_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    for word in re.findall(r"^\s*(?:\$ )?burnish ([\w-]+)", readme, flags=re.MULTILINE):
        assert word in WORDS
    for link in re.findall(r"\]\(([^)#]+)\)", readme):
        assert link.startswith("http") or (ROOT / link).exists(), link


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_every_objective_has_an_example_recipe_that_is_read():
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")

    recipes = [
        make_recipe(yaml.safe_load(block))
        for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
        if "objective" in block
    ]

    assert [recipe.train.objective.kind for recipe in recipes] == [*OBJECTIVES, *TRAINERS]


def test_every_error_says_in_one_sentence_what_it_is():
    for kind in vars(errors).values():
        if isinstance(kind, type):
            assert (kind.__doc__ or "").endswith("."), kind
