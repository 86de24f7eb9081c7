"""A new project is there at once, whole, or not at all."""

import shutil
from pathlib import Path

import pytest

from burnish import api
from burnish.core.errors import AlreadyThere, NotFound
from burnish.core.recipe.recipe import load_recipe, make_recipe

EXAMPLE = Path(__file__).parents[2] / "examples" / "support-desk"


def test_a_project_without_an_example_lacks_nothing_but_its_rows(tmp_path):
    project = api.init(tmp_path / "new" / "desk")

    assert project.files == (".gitignore", "README.md", "burnish.yaml")
    assert project.recipes == ("burnish.yaml",) and project.example is None
    recipe = load_recipe(project.folder / "burnish.yaml")
    assert recipe.data.train == (project.folder / "rows.jsonl",)
    (project.folder / "rows.jsonl").write_text(
        "".join(f'{{"text": "ticket {n}", "label": "{"ab"[n % 2]}"}}\n' for n in range(12))
    )
    assert api.check([project.folder / "burnish.yaml"], changes=["train.objective=classify"]).ok


def test_its_readme_names_the_base_model_and_shapes_of_rows_that_are_read(tmp_path):
    readme = (api.init(tmp_path / "desk").folder / "README.md").read_text()

    assert f"burnish pull {make_recipe().model.name}" in readme
    shapes = [line.strip() for line in readme.splitlines() if line.strip().startswith("{")]
    assert len(shapes) == 3
    for number, shape in enumerate(shapes):
        (tmp_path / f"{number}.jsonl").write_text(shape + "\n")
        assert api.check([tmp_path / f"{number}.jsonl"]).ok, shape


def test_the_example_is_copied_whole_and_every_recipe_of_it_finds_its_files(tmp_path):
    project = api.init(tmp_path / "desk", "support-desk")

    names = [str(f.relative_to(EXAMPLE)) for f in EXAMPLE.rglob("*") if f.is_file()]
    assert list(project.files) == sorted(n for n in names if "__pycache__" not in n)
    for name in project.recipes:
        recipe = load_recipe(project.folder / name)
        assert recipe.data.train and all(file.is_file() for file in recipe.data.train), name
        assert all(folder.is_dir() for folder in recipe.rag.documents), name


def test_what_lies_about_in_the_clones_example_is_not_copied(tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    shutil.copytree(EXAMPLE, clone / "support-desk")
    for hidden in (".burnish", "__pycache__"):
        (clone / "support-desk" / hidden).mkdir(exist_ok=True)
        (clone / "support-desk" / hidden / "file").write_text("")
    monkeypatch.setattr("burnish.api.projects._examples_folder", lambda: clone)

    project = api.init(tmp_path / "desk", "support-desk")

    assert "README.md" in project.files
    assert not [name for name in project.files if name.endswith("/file")]


@pytest.mark.parametrize("example", [None, "support-desk"])
def test_an_empty_folder_is_filled_and_stays_the_one_that_a_shell_stands_in(
    example, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = Path.cwd().stat().st_ino

    project = api.init(".", example)

    assert project.folder.stat().st_ino == before
    assert sorted(p.name for p in Path.cwd().iterdir()) == sorted(
        {name.partition("/")[0] for name in project.files}
    )


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(AlreadyThere, match="not an empty folder"):
            api.init(place, "support-desk")

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_example_that_nobody_knows_makes_no_folder(tmp_path):
    with pytest.raises(NotFound, match="no example `sales-desk`") as refused:
        api.init(tmp_path / "desk", "sales-desk")

    assert "support-desk" in refused.value.fix and not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_there", [False, True])
def test_a_disk_that_fills_up_leaves_nothing(is_there, tmp_path, monkeypatch):
    place = tmp_path / "desk"
    if is_there:
        place.mkdir()
    monkeypatch.setattr("burnish.api.projects.write_atomic", full_at_the_second())

    with pytest.raises(OSError, match="No space left"):
        api.init(place)

    assert place.exists() == is_there and not list(tmp_path.rglob("*"))[is_there:]


def full_at_the_second():
    """`write_atomic` on a disk that has room for one file."""
    from burnish.core.atomic import write_atomic

    written = []

    def write(path, content):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_atomic(path, content)

    return write
