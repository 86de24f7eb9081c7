"""A search tries settings, survives its death, and reports the best with the spread of seeds."""

import json

import pytest

from burnish.core.errors import BadRecipe
from burnish.core.records import Split
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.train.search import run as searching
from burnish.train.search.run import search
from burnish.train.search.study import Pruned, Trial
from tests.fixtures.training import die_at_sync, make_rows
from tests.fixtures.worker_process import in_child

SPACE = (
    "search.space={train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}, "
    "train.method.rank: [2, 4]}"
)


@pytest.fixture
def dataset(recipe_of):
    """26 rows to train and 6 to validate."""
    rows = make_rows(32, system="Sort the request.")
    return Dataset(
        split=Split(rows[:26], rows[26:], ()), task=recipe_of().task, findings=(), notes=(),
        hashes={"rows.jsonl": "0"},
    )  # fmt: skip


@pytest.fixture
def recipe(recipe_of, dataset, monkeypatch):
    """Four trials on them."""
    monkeypatch.setattr(searching, "load", lambda recipe: dataset)
    return recipe_of(SPACE, "search.trials=4", "search.seeds=2", "train.epochs=1")


def test_the_best_settings_are_trained_again_with_other_seeds(recipe, tmp_path):
    report = search(recipe, out=tmp_path / "search")

    assert len(report.trials) == 4
    losses = {json.dumps(trial["settings"]): trial["loss"] for trial in report.trials}
    assert losses[json.dumps(report.best)] == min(losses.values())
    assert report.losses[0] == min(losses.values()), "the recipe's seed is the trial's"
    assert report.losses[1] != report.losses[0] and report.spread > 0
    run = Run(tmp_path / "search")
    assert run.read("report.json")["best"] == report.best
    assert (run.artifact / "adapter_model.safetensors").exists()
    assert 1e-4 <= report.best["train.learning_rate"] <= 1e-1


@pytest.mark.long  # with trials at once: test_search_abreast
def test_a_search_that_is_killed_goes_on_and_tries_no_more_than_asked(recipe, dataset, tmp_path):
    undisturbed = search(recipe, out=tmp_path / "whole")
    run, deaths = tmp_path / "killed", 0

    def go_on():
        die_at_sync(60)
        searching.load = lambda recipe: dataset
        search(recipe, out=run)

    while in_child(go_on) == -9:
        deaths += 1

    assert deaths >= 2
    report = Run(run).read("report.json")
    ended = [trial for trial in report["trials"] if trial["ended"] == "complete"]
    assert len(ended) == 4 and len(list((run / "trials").iterdir())) == 5
    assert len(undisturbed.trials) == 4


def test_a_trial_that_falls_behind_is_given_up_and_has_no_loss(recipe, tmp_path, monkeypatch):
    def gives_up(attempt, step, loss):
        if attempt.number == 2:
            raise Pruned("Given up.")

    monkeypatch.setattr(Trial, "report", gives_up)

    report = search(recipe, out=tmp_path / "search")

    assert [trial["ended"] for trial in report.trials].count("pruned") == 1
    assert report.trials[1]["loss"] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("search.space={train.learning_rat: [1, 2]}", "Did you mean `learning_rate`"),
        ("search.space={train.batch_size: [0]}", "batch_size"),
        ("search.space={train.batch_size: {low: 1}}", "high"),
    ],
)
def test_a_space_that_names_nothing_is_refused_before_the_first_trial(
    change, said, recipe_of, tmp_path
):
    with pytest.raises(BadRecipe, match=said):
        search(recipe_of(change), out=tmp_path / "search")

    assert not (tmp_path / "search").exists()
