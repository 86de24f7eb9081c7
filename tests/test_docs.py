"""The docs say what the code does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from burnish import api
from burnish.core import errors
from burnish.core.recipe.recipe import Recipe, make_recipe
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.registry import TRAINERS
from tests.pages.commands import WORDS
from tests.pages.recipe import field_paths
from tests.write_docs import ROOT, pages, stale_pages

GENERATED = pages()
DOCS = sorted(ROOT.glob("docs/**/*.md"))
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
NAMES = [str(page.relative_to(ROOT)) for page in [*DOCS, *TOP]]
FIELDS = field_paths()
FILES = {".csv", ".html", ".json", ".jsonl", ".md", ".onnx", ".yaml"}
#: Keys of other tools' files that look like fields of a recipe.
OTHERS_KEYS = {
    f"data.{name}"
    for name in ("path", "train_split", "valid_split", "chat_template", "column_mapping")
}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str = "") -> list[str]:
    """The fenced blocks of a page, of one language (none: those without a name)."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [block for name, block in fences if name == language]


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_fresh(name):
    assert text_of(name) == GENERATED[name], "run `make docs`"


def test_no_generated_page_is_left_behind():
    assert not stale_pages(GENERATED), "run `make docs`"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_read_in_one_sitting(name):
    assert len(text_of(name).splitlines()) <= 250


@pytest.mark.parametrize("name", NAMES)
def test_commands_on_a_page_exist(name):
    lines = "\n".join(blocks(text_of(name)))

    for word in re.findall(r"^\s*(?:\$ )?burnish ([a-z][\w-]*)", lines, flags=re.MULTILINE):
        assert word in WORDS


@pytest.mark.parametrize("name", NAMES)
def test_files_that_a_page_names_exist(name):
    named = re.findall(r"\b((?:benchmarks|examples|tests|docs)/[\w./-]*\w)", text_of(name))

    for path in named:
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path


@pytest.mark.parametrize("name", NAMES)
def test_recipe_fields_that_a_page_names_exist(name):
    sections = "|".join(Recipe.model_fields)
    named = re.findall(rf"(?<![\w/.-])(?:{sections})(?:\.[a-z_0-9]+)+(?=[`=]|: )", text_of(name))

    for path in named:
        is_file = FILES.intersection(Path(path).suffixes)
        assert is_file or path in FIELDS or path in OTHERS_KEYS, path


@pytest.mark.parametrize("name", NAMES)
def test_recipes_on_a_page_are_read(name):
    for block in blocks(text_of(name), "yaml"):
        assert make_recipe(yaml.safe_load(block)), block


@pytest.mark.parametrize("name", NAMES)
def test_functions_of_the_python_api_that_a_page_calls_exist(name):
    for block in blocks(text_of(name), "python"):
        for function in re.findall(r"\bapi\.(\w+)\(", block):
            assert callable(getattr(api, function)), function


def test_pages_that_the_code_names_exist():
    for file in sorted((ROOT / "src").rglob("*.py")):
        for page in re.findall(r"(?<![/\w])docs/[\w./-]+\.md", file.read_text(encoding="utf-8")):
            assert (ROOT / page).exists(), f"{file}: {page}"


def test_every_objective_has_an_example_recipe_that_is_read():
    page = text_of("docs/reference/objectives.md") + text_of(
        "docs/reference/objectives-encoders.md"
    )

    recipes = [make_recipe(yaml.safe_load(block)) for block in blocks(page, "yaml")]
    shown = [recipe.train.objective.kind for recipe in recipes]

    assert shown == [*OBJECTIVES, *TRAINERS]


def test_every_error_says_in_one_sentence_what_it_is():
    for kind in vars(errors).values():
        if isinstance(kind, type):
            assert (kind.__doc__ or "").endswith("."), kind


def test_the_readme_is_short_and_has_no_link_that_leads_nowhere_on_pypi():
    readme = text_of("README.md")

    assert len(readme.splitlines()) < 120
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]+)\)", readme))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The docs as a site; a broken link or anchor, or a page that `nav` lacks, ends the build."""
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: it hides the warnings from --strict, too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_asks_no_other_server_for_anything(site):
    for page in site.rglob("*.html"):
        loads = r'(?:<script[^>]*\bsrc|<img[^>]*\bsrc|<link[^>]*\bhref)="?(https?:[^" >]+)'
        assert not re.findall(loads, page.read_text(encoding="utf-8")), page.name


def test_the_site_has_a_search_index_that_works_from_a_folder(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")

    assert index.startswith("var __index") and "Hyperparameter search" in index


def test_the_python_api_on_the_site_has_every_command(site):
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")

    for word in ("check", "train", "compare", "evaluate", "export", "index", "ask", "serve"):
        assert f'id="burnish.api.{word}"' in page
