"""A task is started, watched and stopped; what can't be started is said before."""

import importlib.util

import psutil
import pytest

from burnish.core.errors import BadRecipe, Unavailable
from burnish.core.executors.executor import open_executor
from burnish.core.executors.process import NODE_LOST, WORKSPACE_UNSEEN, ProcessTask, describe_exit
from burnish.core.executors.ray_actor import TaskActor
from burnish.core.recipe.recipe import make_recipe


def test_a_task_says_into_its_log_and_ends_with_its_code(tmp_path):
    child = open_executor("").start(ProcessTask("calendar", ["2026", "11"], tmp_path / "log"))
    child.process.wait(60)

    assert child.poll() == 0
    child.stop()
    assert "November 2026" in (tmp_path / "log").read_text()


def test_a_task_that_is_stopped_has_ended(tmp_path):
    task = ProcessTask("http.server", ["0", "--bind", "127.0.0.1"], tmp_path / "log")
    child = open_executor("").start(task)
    assert child.poll() is None

    child.stop()

    assert child.poll() == -9 and not psutil.pid_exists(child.process.pid)


def test_a_node_that_does_not_see_the_workspace_starts_nothing(tmp_path):
    task = ProcessTask("calendar", ["2026"], tmp_path / "elsewhere" / "log")

    assert TaskActor().run(task, {}) == WORKSPACE_UNSEEN
    assert not (tmp_path / "elsewhere").exists()


def test_a_node_gives_a_task_the_settings_of_whoever_asked(tmp_path):
    program = "import os, pathlib; pathlib.Path('{}').write_text(os.environ['BURNISH_HOME'])"
    (tmp_path / "told.py").write_text(program.format(tmp_path / "home"))
    settings = {"BURNISH_HOME": "/shared/home", "PYTHONPATH": str(tmp_path)}

    assert TaskActor().run(ProcessTask("told", [], tmp_path / "log"), settings) == 0
    assert (tmp_path / "home").read_text() == "/shared/home"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "signal 9"),
        (137, "signal 9"),
        (3, "code 3"),
        (NODE_LOST, "node"),
        (WORKSPACE_UNSEEN, "workspace"),
    ],
)
def test_how_a_task_ended_is_said_in_words(code, words):
    assert words in describe_exit(code)


def test_a_cluster_without_ray_names_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(Unavailable, match="needs Ray") as raised:
        open_executor("ray").check()
    assert "burnish[ray]" in raised.value.fix


@pytest.mark.parametrize("name", ["dask", "ray://", "ray://host", "RAY"])
def test_an_executor_that_there_is_not_is_refused(name):
    with pytest.raises(BadRecipe, match="write ray"):
        make_recipe({}, [f"serve.executor={name}"])
