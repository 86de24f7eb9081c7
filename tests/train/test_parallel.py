"""Several processes learn what one would: real ones, two, on the CPU."""

import pytest
import torch
from safetensors.torch import load_file

from burnish.core.journal import read_journal
from burnish.train.run import train
from tests.train.conftest import chosen, preferred


def measured(run):
    names = ("step", "loss", "learning_rate", "tokens", "validation_loss", "rewards/accuracy")
    entries = read_journal(run / "metrics.jsonl")
    return [{name: entry[name] for name in names if name in entry} for entry in entries]


def tensors(run):
    return load_file(next((run / "artifact").glob("*model.safetensors")))


def assert_alike(run, other):
    """The same course, figure by figure, and the same weights, but for the order of additions."""
    for mine, theirs in zip(measured(run), measured(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    for name, weight in tensors(other).items():
        torch.testing.assert_close(tensors(run)[name], weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("parallel", ["ddp", "zero1", "zero2"])
def test_two_processes_train_what_one_does(
    parallel, method, objective, recipe_of, dataset, tmp_path
):
    usual = ("model.dtype=float32", f"train.method={method}", *chosen(objective))
    rows = preferred(dataset, objective)
    train(recipe_of(*usual), rows, out=tmp_path / "one")

    shared = recipe_of(*usual, f"train.parallel={parallel}", "train.devices=2")
    train(shared, rows, out=tmp_path / "two")

    assert_alike(tmp_path / "two", tmp_path / "one")
