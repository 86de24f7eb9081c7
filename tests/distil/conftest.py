"""Questions, a recipe with a stub teacher, and a collector in a run of its own."""

import shutil

import pytest

from burnish.core.recipe import make_recipe
from burnish.core.records import Message, Row
from burnish.core.runs import new_run
from tests.stub_teacher import Stub, serving


def questions(count):
    """Rows with a question and no answer."""
    return [
        Row(messages=(Message("user", f"where is parcel {n}"),), file="q.jsonl", line=n + 1)
        for n in range(count)
    ]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Tries follow each other at once."""
    from burnish.engines import remote

    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def own_models(tiny, tiny_folder, monkeypatch, tmp_path):
    """A models folder of this test's own, for students that are cut."""
    shutil.copytree(tiny_folder, tmp_path / "models")
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def stub():
    """A running teacher that answers every question."""
    with serving(Stub()) as running:
        yield running


@pytest.fixture
def collector_of(stub):
    """A collector that asks the stub, with these settings of the teacher."""
    from burnish.distil.collect import Collector
    from burnish.engines.remote import RemoteTeacher

    def build(run=None, **settings):
        named = {"model": "big", "endpoint": stub.url, "concurrency": 4, **settings}
        recipe = make_recipe({"distil": {"teacher": named}})
        run = run or new_run("distil", recipe, {})
        return Collector(RemoteTeacher(recipe.distil.teacher), run, recipe)

    return build
