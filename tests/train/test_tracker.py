"""A tracker hears what the journal does."""

import importlib.util
import time

import pytest

from burnish.core.errors import Unavailable
from burnish.core.journal import read_journal
from burnish.train.run import train
from tests.train.conftest import die_at_sync, in_child, weights


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
        "burnish.train.tracker.find_spec", lambda name: None if name == "wandb" else real(name)
    )

    with pytest.raises(Unavailable, match="needs the library wandb") as raised:
        train(recipe_of("train.tracker=wandb"), dataset, out=tmp_path / "run")

    assert "pip install wandb" in raised.value.fix
