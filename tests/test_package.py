"""What is published works without the repository: the wheel made from the sdist, in a new place."""

import email
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from readme_renderer.markdown import render

from burnish import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that was built from it. The network is not used."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The `burnish` command of a fresh environment that has the wheel, and its dependencies from
    the environment of the tests."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(built[1])], check=True)
    (own,) = place.glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = "import burnish; print(burnish.__file__)"
    found = subprocess.run(
        [python, "-c", where], capture_output=True, text=True, cwd=place, env=clean(), check=True
    )
    assert found.stdout.startswith(str(own)), "the wheel is not what is tested"
    return place / "bin" / "burnish"


def clean(**changes):
    """The environment without what would lead to the sources of this repository."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | changes


@pytest.fixture
def burnish(installed, tiny_folder, tmp_path):
    """Run the installed command in an empty folder."""
    (tmp_path / "empty").mkdir()

    def run(*words, code=0):
        done = subprocess.run(
            [installed, *words],
            capture_output=True,
            text=True,
            cwd=tmp_path / "empty",
            env=clean(BURNISH_MODELS=str(tiny_folder), BURNISH_HOME=str(tmp_path / "home")),
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_wheel_says_its_version_and_its_words(built, burnish):
    assert burnish("--version").strip() == __version__
    assert f"-{__version__}-" in built[1].name
    assert "init" in burnish("--help") and "--example" in burnish("init", "--help")


def test_the_wheel_brings_an_example_that_its_own_check_reads(burnish, tmp_path):
    project = json.loads(burnish("init", "desk", "--example", "support-desk", "--json"))

    assert project["folder"] == str(tmp_path / "empty" / "desk")
    assert "triage.yaml" in project["recipes"] and "handbook/company.md" in project["files"]
    for recipe, rows in (("triage.yaml", 200), ("replies.yaml", 440), ("questions.yaml", 213)):
        checked = burnish("check", f"desk/{recipe}", "--model", "tiny", "--json")
        assert json.loads(checked)["rows"] == rows


def test_the_wheel_starts_a_project_of_ones_own(burnish, tmp_path):
    burnish("init", "own")
    rows = [{"text": f"ticket {n}", "label": "ab"[n % 2]} for n in range(12)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "empty" / "own" / "rows.jsonl").write_text(lines)

    checked = json.loads(burnish("check", "own/burnish.yaml", "--model", "tiny", "--json"))

    assert checked["ok"] and checked["rows"] == 12


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (licence,) = (name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()

    package = tracked("src/burnish")
    example = {name.replace("examples/", "burnish/examples/") for name in tracked("examples")}
    expected = {name.removeprefix("src/") for name in package}
    expected |= {name for name in example if name.startswith("burnish/examples/support-desk/")}
    assert names == expected


def test_the_sdist_holds_what_building_and_testing_need_and_nothing_of_this_machine(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    top = {"LICENSE", "README.md", "Makefile", "constraints.txt", "pyproject.toml", "PKG-INFO"}
    assert top <= names
    assert {*tracked("src"), *tracked("tests"), *tracked("examples")} <= names
    parts = {part for name in names for part in Path(name).parts}
    assert not parts & {".git", ".venv", ".burnish", "__pycache__", "dist"}


def tracked(folder):
    """Files below a folder that belong to the project, new ones included."""
    return {
        str(file.relative_to(ROOT))
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and not {"__pycache__", ".burnish"} & set(file.parts)
        and not any(part.endswith(".egg-info") for part in file.parts)
    }  # fmt: skip


def test_the_readme_renders_where_packages_are_published(built):
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
        facts = email.message_from_bytes(wheel.read(name))

    assert facts["Description-Content-Type"] == "text/markdown"
    assert facts["License-Expression"] == "Apache-2.0"
    page = render(str(facts.get_payload()))
    assert page and re.search("<h1[^>]*>burnish", page) and "<pre" in page and "```" not in page
