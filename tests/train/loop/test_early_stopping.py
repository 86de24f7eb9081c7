"""When memory, disk or numbers give out, training ends with one sentence and can go on."""

import resource

import pytest

from burnish.core.errors import DoesNotFit, TrainingStopped
from burnish.core.journal import read_journal
from burnish.core.progress import set_reporter
from burnish.train.loop.resource_errors import is_out_of_memory
from burnish.train.run import train
from tests.fixtures.training import weights
from tests.fixtures.worker_process import in_child


class At:
    """Does something to the machine when a piece of work begins."""

    def __init__(self, label, action):
        self.label, self.action = label, action

    def start(self, label, total):
        if label == self.label:
            self.action()
        return self

    def advance(self, steps=1, note=""):
        pass

    def stop(self, bar):
        pass

    def say(self, text):
        pass


def stopped_by(action, label, expected, work, said):
    """Train in a child whose machine gives out; True if it says so in one sentence."""

    def child():
        set_reporter(At(label, action))
        try:
            work()
        except expected as error:
            said.write_text(str(error))

    assert in_child(child) == 0
    return said.read_text()


def fill_the_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def take_the_memory():
    with open("/proc/self/status") as file:
        size = next(int(line.split()[1]) for line in file if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024, size * 1024))
    hog = []
    for piece in (1 << 20, 1 << 16):
        try:
            while True:
                hog.append(bytes(piece))
        except MemoryError:
            del hog[-1]
    take_the_memory.hog = hog


def test_a_full_disk_stops_the_run_and_it_goes_on_to_the_same_bits(dataset, recipe_of, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    train(recipe_of(), dataset, out=whole)

    said = stopped_by(
        fill_the_disk, "Fine-tuning", TrainingStopped,
        lambda: train(recipe_of(), dataset, out=run), tmp_path / "said",
    )  # fmt: skip

    assert "disk is full" in said and "burnish train --resume run" in said
    train(recipe_of(), dataset, resume=run)
    assert weights(run) == weights(whole)


def test_a_full_disk_is_found_before_the_run_begins(dataset, recipe_of, tmp_path):
    said = stopped_by(
        fill_the_disk, "Forecasting", DoesNotFit,
        lambda: train(recipe_of(), dataset, out=tmp_path / "run"), tmp_path / "said",
    )  # fmt: skip

    assert "disk is full" in said


@pytest.mark.parametrize(
    ("label", "expected"), [("Forecasting", DoesNotFit), ("Fine-tuning", TrainingStopped)]
)
def test_no_memory_stops_the_run_and_says_which_setting_needs_less(
    label, expected, dataset, recipe_of, tmp_path
):
    recipe = recipe_of("train.batch_size=26", "train.micro_batch_tokens=4096")

    said = stopped_by(
        take_the_memory, label, expected,
        lambda: train(recipe, dataset, out=tmp_path / "run"), tmp_path / "said",
    )  # fmt: skip

    assert "no memory left" in said and "train.micro_batch_tokens" in said


def test_what_torch_says_without_memory_is_understood():
    import torch

    limits = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)

    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_numbers_that_run_away_stop_the_run_and_are_not_kept(dataset, recipe_of, tmp_path):
    recipe = recipe_of("train.learning_rate=1e30", "train.warmup_ratio=0")

    with pytest.raises(TrainingStopped, match="no longer a finite number at step") as caught:
        train(recipe, dataset, out=tmp_path / "run")

    assert "half the train.learning_rate" in caught.value.fix
    metrics = read_journal(tmp_path / "run" / "metrics.jsonl")
    assert all(entry["loss"] == entry["loss"] for entry in metrics if "loss" in entry)
