"""What won on this machine is served under its run's name; anything else is told, not served."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.core.errors import BadData, BadRecipe, NotFound
from burnish.core.hardware import hardware
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Prompt
from burnish.core.runs import Run
from burnish.engines.external.base import LaunchOptions
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.export.search import winner as best_room
from burnish.export.search.run import search_formats
from burnish.export.search.winner import find_winner, record_search
from tests.fixtures.exports import ROOM

NAME = "20260101-first"
PICK = {
    "pick": "gguf q8_0, 2 threads", "best": "latency", "candidates": [{}, {}], "against": [],
    "served": {"serve": {"engine_threads": 2}, "torch_threads": 0},
}  # fmt: skip


@pytest.fixture
def run(known, tmp_path):
    """A copy of the first run, whose events are this test's own."""
    own = Run(shutil.copytree(known.runs[NAME].path, tmp_path / "runs" / NAME))
    (own.path / "events.jsonl").unlink(missing_ok=True)  # other tests search it too
    return own


def left(run, found, name="exports/for-this-machine"):
    """A search's folder without the search."""
    folder = run.path / name
    shutil.copytree(run.artifact, folder)
    (folder / "search.json").write_text(json.dumps(found))
    record_search(run, folder)
    return folder


def test_the_pick_of_a_search_answers_under_the_runs_name(run, known, tmp_path, monkeypatch):
    row = known.rows[NAME][0]
    lines = [
        json.dumps({"prompt": r.messages[0].content, "completion": r.answer})
        for r in known.rows[NAME]
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    changes = [f"data.test={tmp_path / 'test.jsonl'}", "task.kind=generation"]
    changes += ["export.fit.formats=[gguf:f16]", "export.fit.threads=[1]"]
    changes += [f"export.{name}={points}" for name, points in ROOM.items()]
    assert search_formats(run, make_recipe({"model": {"name": "tiny"}}, changes)).pick
    told = {}

    def serve(sources, settings, aliases):
        told.update(sources=sources, settings=settings, aliases=aliases)

    monkeypatch.setattr("burnish.serve.run.serve", serve)

    words = ["serve", str(run.path), "--best", "--alias", f"gpt={run.path}"]
    shown = CliRunner().invoke(app, words, catch_exceptions=False)

    assert shown.exit_code == 0
    assert "gguf f16, 1 thread has the best latency of 1 candidates" in shown.stderr
    assert told["settings"].engine_threads == 1
    fleet = open_model_pool(told["sources"], told["aliases"], LaunchOptions(1, 256))
    try:
        for name in (NAME, str(run.path), "gpt"):
            prompt = Prompt((Message("user", row.messages[0].content),), max_new_tokens=12)
            assert fleet.find(name).answer([prompt])[0].text == row.answer
            assert fleet.find(name).name == f"{NAME}-gguf-f16"
    finally:
        fleet.close()


def test_the_last_search_on_this_machine_counts(run, monkeypatch):
    left(run, PICK, "first")
    second = left(run, {**PICK, "pick": "onnx int4, 1 thread"}, "second")
    monkeypatch.setattr(best_room, "hardware", lambda: {**hardware(), "processor": "another"})
    left(run, PICK, "third")
    monkeypatch.undo()

    found = find_winner(run)

    assert found.folder == second and found.why.startswith("onnx int4")
    assert found.changes == ["serve.engine_threads=2"]


def test_a_run_that_was_moved_takes_its_pick_along(run, tmp_path):
    left(run, PICK)
    moved = Run(shutil.move(run.path, tmp_path / "moved"))

    assert find_winner(moved).folder == moved.path / "exports/for-this-machine"


def test_what_cant_be_served_says_why(run, monkeypatch):
    with pytest.raises(NotFound, match="has no search on this machine"):
        find_winner(run)
    left(run, {**PICK, "pick": None, "against": ["No format keeps memory."]}, "none")
    with pytest.raises(NotFound, match="picked nothing: No format keeps memory"):
        find_winner(run)
    folder = left(run, PICK)
    shutil.move(folder / "search.json", folder / "other.json")
    with pytest.raises(NotFound, match="is gone from"):
        find_winner(run)
    shutil.move(folder / "other.json", folder / "search.json")
    (folder / "adapter_model.safetensors").write_bytes(b"other weights")
    with pytest.raises(BadData):
        find_winner(run)
    there = {**hardware(), "processor": "a quicker one"}
    monkeypatch.setattr(best_room, "hardware", lambda: there)
    with pytest.raises(NotFound, match="a quicker one here"):
        find_winner(run)


def test_a_pick_that_answers_in_the_server_gets_the_threads_it_was_measured_with(run, monkeypatch):
    left(run, {**PICK, "served": {"serve": {}, "torch_threads": 2}})
    before, threads = torch.get_num_threads(), []
    monkeypatch.setattr(
        "burnish.serve.run.serve", lambda *_: threads.append(torch.get_num_threads())
    )
    try:
        CliRunner().invoke(app, ["serve", str(run.path), "--best"], catch_exceptions=False)
    finally:
        torch.set_num_threads(before)

    assert threads == [2]


def test_best_is_for_one_run(run):
    with pytest.raises(BadRecipe, match="one run"):
        CliRunner().invoke(app, ["serve", "a", "b", "--best"], catch_exceptions=False)
