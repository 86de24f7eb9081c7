"""A tracker hears what the journal does."""

import importlib.util
import json
import time

import pytest

from burnish.core.errors import Unavailable
from burnish.core.journal import read_journal
from burnish.train.run import train
from tests.fixtures.training import die_at_sync, weights
from tests.fixtures.worker_process import in_child


def curves(run):
    """(step, loss) as TensorBoard reads its files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in ("loss", "validation_loss")
    }


def test_tensorboard_has_the_losses_of_the_journal_even_if_killed(dataset, recipe_of, tmp_path):
    pytest.importorskip("tensorboard")
    recipe = recipe_of("train.tracker=tensorboard")
    train(recipe, dataset, out=tmp_path / "whole")

    def first():
        die_at_sync(20)
        train(recipe, dataset, out=tmp_path / "killed")

    assert in_child(first) == -9
    time.sleep(1.1)  # TensorBoard reads files in the order of the seconds in their names
    train(recipe, dataset, resume=tmp_path / "killed")

    journal = read_journal(tmp_path / "whole" / "metrics.jsonl")
    expected = {
        name: [(entry["step"], pytest.approx(entry[name])) for entry in journal if name in entry]
        for name in ("loss", "validation_loss")
    }
    assert curves(tmp_path / "whole") == expected == curves(tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_a_missing_library_is_named(dataset, recipe_of, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "burnish.train.loop.trackers.find_spec",
        lambda name: None if name == "wandb" else real(name),
    )

    with pytest.raises(Unavailable, match="needs the library wandb") as raised:
        train(recipe_of("train.tracker=wandb"), dataset, out=tmp_path / "run")

    assert "pip install wandb" in raised.value.fix


def killed_and_resumed(recipe, dataset, folder):
    """A run that was killed at a step and goes on: the losses of its journal by step."""

    def first():
        die_at_sync(20)
        train(recipe, dataset, out=folder / "killed")

    assert in_child(first) == -9
    train(recipe, dataset, resume=folder / "killed")
    journal = read_journal(folder / "killed" / "metrics.jsonl")
    return {entry["step"]: pytest.approx(entry["loss"]) for entry in journal if "loss" in entry}


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_a_run_that_was_killed_goes_on_as_one_run(name, dataset, recipe_of, tmp_path, monkeypatch):
    at_home(monkeypatch, tmp_path)
    pytest.importorskip(name)

    losses = killed_and_resumed(recipe_of(f"train.tracker={name}"), dataset, tmp_path)

    assert READERS[name](tmp_path / "home", "killed") == losses


def test_wandb_has_both_parts_under_one_id(dataset, recipe_of, tmp_path, monkeypatch, capfd):
    at_home(monkeypatch, tmp_path)
    pytest.importorskip("wandb")

    losses = killed_and_resumed(recipe_of("train.tracker=wandb"), dataset, tmp_path)

    files = list((tmp_path / "home").glob("wandb/offline-run-*/run-*.wandb"))
    assert [file.name for file in files] == ["run-killed.wandb"] * 2
    shown = [line.split()[-1] for line in capfd.readouterr().err.splitlines() if " loss " in line]
    assert float(shown[-1]) == losses[max(losses)]


def at_home(monkeypatch, folder):
    """Where each of them keeps its runs, without a server."""
    home = folder / "home"
    home.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{home}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(home))
    monkeypatch.setenv("TRACKIO_DIR", str(home))
    monkeypatch.chdir(folder)


def of_mlflow(home, run):
    from mlflow import MlflowClient

    client = MlflowClient(f"file:{home}/mlruns")
    experiment = client.get_experiment_by_name("burnish")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == run and found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "loss")
    return {metric.step: metric.value for metric in history}


def of_trackio(home, run):
    import sqlite3

    (file,) = home.glob("**/burnish*.db")
    with sqlite3.connect(file) as store:
        rows = store.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    assert {name for name, _, _ in rows} == {run}
    found = [(step, json.loads(metrics)) for _, step, metrics in rows]
    return {step: metrics["loss"] for step, metrics in found if "loss" in metrics}


READERS = {"mlflow": of_mlflow, "trackio": of_trackio}
