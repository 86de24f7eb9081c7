"""A run folder is found by id, by the beginning of its id, and as `last`."""

import os
import pickle
import subprocess
import sys

import pytest

from burnish.core import errors
from burnish.core.errors import AlreadyThere, BurnishError, Busy, NotFound
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import find_run, list_runs, new_run, runs_folder


def test_a_run_is_found_by_every_name_it_has():
    run = new_run("train", make_recipe({}), {"data": {}})

    for name in (run.id, run.id[:-1], "last", str(run.path)):
        assert find_run(name) == run
    assert run.recipe == make_recipe({})
    assert run.read("inputs.json")["versions"]["torch"]


def test_a_name_that_fits_none_or_several_runs_is_refused():
    with pytest.raises(NotFound, match="no run `last`"):
        find_run("last")
    for name in ("one", "onset"):
        new_run("train", make_recipe({}), {}, out=runs_folder() / name)

    with pytest.raises(NotFound, match="matches 2 runs"):
        find_run("on")
    assert find_run("one").id == "one"
    assert [run.id for run in list_runs()] == ["one", "onset"]


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")

    with pytest.raises(AlreadyThere):
        new_run("train", make_recipe({}), {}, out=tmp_path / "out")

    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type)], ids=str
)
def test_an_error_survives_the_trip_from_another_process(kind):
    error = pickle.loads(pickle.dumps(kind("what happened", "what to do")))

    assert isinstance(error, BurnishError)
    assert (error.what, error.fix) == ("what happened", "what to do")
    assert 400 <= error.status < 600 and error.code in (1, 2)


def test_a_run_is_worked_on_by_one_process_and_freed_by_its_death():
    run = new_run("train", make_recipe({}), {})
    code = f"""
import os, pathlib
from burnish.core.runs import Run
with Run(pathlib.Path({str(run.path)!r})).lock():
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match=run.id), run.lock():
            pass
        other.kill()
    with run.lock():
        pass


def test_last_is_the_newest_run_with_a_model_and_never_a_part_of_another(workspace):
    names = ("20260101-000001-train-a", "20260101-000002-train-b", "train-0123456789ab")
    names += ("20260101-000003-train-c", "20260101-000004-evaluate-d")
    runs = {}
    for place, name in enumerate(names):
        runs[name] = new_run("train", make_recipe({}), {}, runs_folder() / name)
        os.utime(runs[name].path / "inputs.json", (place, place))
    for name in names[:3]:
        runs[name].artifact.mkdir()

    assert [run.id for run in list_runs()] == list(names)
    assert find_run("last").id == names[1]
    assert find_run("last", unfinished=True).id == names[3]
