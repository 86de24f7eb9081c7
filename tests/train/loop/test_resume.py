"""Killed at any moment, a run that is resumed ends in the same weights, bit for bit."""

import itertools
import os
import random
import shutil
import signal

import pytest

from burnish.core.errors import BadData
from burnish.core.journal import read_journal
from burnish.train.run import train
from tests.fixtures.training import die_at_sync, make_rows, preferred, weights
from tests.fixtures.worker_process import in_child

KILLED = -9


@pytest.fixture
def recipe(recipe_of):
    """With dropout, so that the random state counts too."""
    return recipe_of("train.method.dropout=0.1", "model.dtype=bfloat16")


@pytest.fixture
def undisturbed(recipe, dataset, tmp_path):
    train(recipe, dataset, out=tmp_path / "whole")
    return tmp_path / "whole"


def measured(run):
    names = (
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "validation_loss",
        "rewards/margin",
    )
    entries = read_journal(run / "metrics.jsonl")
    return [{name: entry[name] for name in names if name in entry} for entry in entries]


def writes_of_a_run(recipe, dataset, folder):
    """How often a whole run makes the disk keep something."""
    count = folder / "count"
    real, calls = os.fsync, []

    def work():
        os.fsync = lambda descriptor: (calls.append(1), real(descriptor))
        train(recipe, dataset, out=folder / "counted")
        count.write_text(str(len(calls)))

    assert in_child(work) == 0
    return int(count.read_text())


def test_killed_in_the_middle_of_any_write_it_ends_in_the_same_bits(
    recipe, dataset, undisturbed, tmp_path
):
    total = writes_of_a_run(recipe, dataset, tmp_path)
    moments = random.Random(0).sample(range(6, total - 4), 8)

    for moment in moments:
        run = tmp_path / f"killed-{moment}"

        def first(run=run, moment=moment):
            die_at_sync(moment)
            train(recipe, dataset, out=run)

        assert in_child(first) == KILLED
        train(recipe, dataset, resume=run)

        assert weights(run) == weights(undisturbed), f"killed at write {moment}"
        assert measured(run) == measured(undisturbed), "no step twice, none missing"
        assert not list(run.rglob(".*")), "no draft is left"


def die_in_the_reference(batch):
    """Kill this process before micro-batch `batch` (from 0) of the reference is measured."""
    from burnish.train.rlhf import reference

    real, count = reference.answer_logprobs, itertools.count()

    def measure(model, some):
        if next(count) == batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(model, some)

    reference.answer_logprobs = measure


@pytest.mark.parametrize("objective", ["dpo", "kto"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_while_the_reference_is_measured_or_later_it_ends_in_the_same_bits(
    method, objective, recipe_of, dataset, tmp_path
):
    recipe = recipe_of(f"train.method={method}", f"train.objective={objective}")
    rows, whole, run = preferred(dataset, objective), tmp_path / "whole", tmp_path / "run"
    train(recipe, rows, out=whole)
    lines = len(read_journal(whole / "reference.jsonl"))

    def go_on(die, *how):
        def life():
            die(*how)
            train(recipe, rows, **({"resume": run} if run.exists() else {"out": run}))

        return in_child(life)

    assert go_on(die_in_the_reference, 2) == KILLED
    assert len(read_journal(run / "reference.jsonl")) == 2 < lines
    assert go_on(die_at_sync, lines + 20) == KILLED
    assert len(read_journal(run / "reference.jsonl")) == lines
    assert list((run / "checkpoints").iterdir()), "it died between checkpoints"
    train(recipe, rows, resume=run)

    files = [next((each / "artifact").glob("*model.safetensors")) for each in (run, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert measured(run) == measured(whole), "no step twice, none missing"


def test_killed_again_and_again_it_still_ends_in_the_same_bits(
    recipe, dataset, undisturbed, tmp_path
):
    run, deaths = tmp_path / "killed", 0

    def go_on():
        die_at_sync(25)
        train(recipe, dataset, **({"resume": run} if run.exists() else {"out": run}))

    while in_child(go_on) == KILLED:
        deaths += 1
        assert deaths < 30, "every life must get further than the one before"

    assert deaths >= 3
    assert weights(run) == weights(undisturbed)
    assert measured(run) == measured(undisturbed)


@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage, recipe, dataset, undisturbed, tmp_path
):
    run = tmp_path / "damaged"
    shutil.copytree(undisturbed, run)
    shutil.rmtree(run / "artifact")
    newest = max((run / "checkpoints").iterdir()) / "tensors.safetensors"
    content = newest.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    if damage == "missing":
        newest.unlink()
    else:
        newest.write_bytes(changed if damage == "flipped" else content[:middle])

    train(recipe, dataset, resume=run)

    assert weights(run) == weights(undisturbed)
    assert measured(run) == measured(undisturbed)


def test_a_finished_run_that_is_resumed_stays_what_it_is(recipe, dataset, undisturbed):
    before = weights(undisturbed)

    report = train(recipe, dataset, resume=undisturbed)

    assert weights(undisturbed) == before
    assert report.steps == len(report.losses) == 13


def test_a_run_is_not_resumed_on_other_data_or_settings(recipe, dataset, undisturbed, recipe_of):
    from dataclasses import replace

    with pytest.raises(BadData, match="data of whole has changed"):
        train(recipe, replace(dataset, hashes={"rows.jsonl": "1"}), resume=undisturbed)
    with pytest.raises(BadData, match="recipe of whole has changed"):
        train(recipe_of("train.learning_rate=1e-3"), dataset, resume=undisturbed)


def test_no_more_checkpoints_stay_than_asked_for_and_the_best_one_does(
    recipe_of, dataset, tmp_path
):
    recipe = recipe_of(
        "train.keep_checkpoints=1", "train.epochs=6", "train.learning_rate=0.1",
        "train.evaluate_every=2", "train.patience=0",
    )  # fmt: skip

    train(recipe, dataset, out=tmp_path / "run")

    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    losses = {
        entry["step"]: entry["validation_loss"]
        for entry in read_journal(tmp_path / "run" / "metrics.jsonl")
        if "validation_loss" in entry
    }
    best = min(losses, key=losses.__getitem__)
    assert kept == sorted({f"step-{best:06}", "step-000039"})


def test_the_last_three_checkpoints_at_multiples_stay_too(recipe_of, dataset, tmp_path):
    recipe = recipe_of(
        "train.keep_checkpoints=1", "train.epochs=3", "train.keep_every=4", "train.patience=0",
        "train.checkpoint_every=50", "train.evaluate_every=50",
    )  # fmt: skip

    train(recipe, dataset, out=tmp_path / "run")

    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-000012", "step-000016", "step-000020"]


def test_the_order_of_rows_is_a_function_of_seed_and_epoch(plan_of):
    from burnish.train.batching.sampler import rows_of_step

    plan = plan_of(make_rows(10), "train.batch_size=5")
    epochs = [
        [row for step in (2 * epoch, 2 * epoch + 1)
         for row in rows_of_step(plan.rows, step, plan.settings)]
        for epoch in (0, 1, 0)
    ]  # fmt: skip

    assert epochs[0] == epochs[2] != epochs[1]
    assert all(sorted(epoch, key=str) == sorted(plan.rows, key=str) for epoch in epochs)
