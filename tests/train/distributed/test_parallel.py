"""Several processes learn what one would: real ones, two, on the CPU."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from burnish.core.errors import BadRecipe, DoesNotFit, TrainingStopped
from burnish.core.journal import read_journal
from burnish.core.recipe.recipe import make_recipe
from burnish.train.distributed.process_group import ProcessGroup, split_by_tokens
from burnish.train.forecast import memory_claims as claims
from burnish.train.forecast import probe
from burnish.train.run import train
from tests.fixtures.training import chosen, make_rows, preferred
from tests.fixtures.worker_process import in_child

#: At a high rate AdamW makes the order of additions visible: a gradient of nearly 0 has a sign.
USUAL = ("model.dtype=float32", "train.learning_rate=1e-3")


def measured(run):
    names = ("step", "loss", "learning_rate", "tokens", "validation_loss", "rewards/accuracy")
    entries = read_journal(run / "metrics.jsonl")
    # Before the first update a model prefers nothing to its reference but for rounding.
    entries[0].pop("rewards/accuracy", None)
    return [{name: entry[name] for name in names if name in entry} for entry in entries]


def tensors(run):
    return load_file(next((run / "artifact").glob("*model.safetensors")))


def assert_alike(run, other):
    """The same course, figure by figure, and the same weights, but for the order of additions."""
    for mine, theirs in zip(measured(run), measured(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    for name, weight in tensors(other).items():
        torch.testing.assert_close(tensors(run)[name], weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "parallel, method, objective",
    [
        ("ddp", "lora", "dpo"),
        ("zero2", "full", "sft"),
        ("zero3", "full", "sft"),
        ("fsdp", "lora", "sft"),
    ],
)
def test_two_processes_train_what_one_does(
    parallel, method, objective, recipe_of, dataset, tmp_path
):
    usual = (*USUAL, f"train.method={method}", *chosen(objective))
    rows = preferred(dataset, objective)
    train(recipe_of(*usual), rows, out=tmp_path / "one")

    shared = recipe_of(*usual, f"train.parallel={parallel}", "train.devices=2")
    report = train(shared, rows, out=tmp_path / "two")

    assert_alike(tmp_path / "two", tmp_path / "one")
    found = {quantity["name"]: quantity for quantity in report.forecast}
    assert found["training time"]["low"] < found["training time"]["expected"]
    for name in ("peak memory", "peak memory of all processes", "disk"):
        assert found[name]["low"] <= found[name]["actual"] <= found[name]["high"], found[name]
    of_both = found["peak memory of all processes"]["actual"]
    assert of_both > report.peak_memory_bytes == found["peak memory"]["actual"]


def test_processes_that_have_no_room_beside_each_other_are_refused(
    recipe_of, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(claims, "available_memory", lambda: 0)
    shared = recipe_of("train.parallel=ddp", "train.devices=2")

    with pytest.raises(DoesNotFit, match="GB of memory"):
        train(shared, dataset, out=tmp_path / "run")

    assert not followers() and not (tmp_path / "run" / "checkpoints").exists()


def test_each_memory_has_to_hold_those_who_draw_from_it():
    def claim(place, high):
        return claims.MemoryClaim(
            place, low=0.8 * high, expected=high, high=high, used=100, free=1000
        )

    assert claims.first_shortage([claim("a", 1000), claim("b", 1000)]) is None
    assert claims.first_shortage([claim("a", 600), claim("a", 600)]) is None
    assert claims.first_shortage([claim("a", 1100), claim("b", 1101)]) == (1101, 1100)
    assert claims.first_shortage([claim("a", 600), claim("a", 601)]) == (1201, 1200)


@pytest.mark.parametrize("count", [2, 3])
def test_a_rehearsed_micro_batch_reaches_every_process_whole(count, plan_of):
    plan = plan_of(make_rows(9))
    rows = list(plan.rows)

    dealt = split_by_tokens(
        probe._repeat_for_processes(
            replace(plan, process_group=ProcessGroup(0, count, "ddp")), rows
        ),
        count,
    )

    for part in dealt:
        assert sorted(row.answers[0].ids for row in part) == sorted(
            row.answers[0].ids for row in rows
        )


def followers():
    """The processes that this one has started for a run; tests beside this one have others."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "burnish.train.worker" in child.cmdline()
    ]


def test_a_killed_process_ends_the_run_in_a_sentence_and_it_goes_on_to_the_same_weights(
    recipe_of, dataset, tmp_path
):
    alone = recipe_of(*USUAL)
    shared = recipe_of(*USUAL, "train.parallel=zero1", "train.devices=2")
    train(alone, dataset, out=tmp_path / "one")

    def die(step, loss):
        for follower in followers():
            follower.kill()

    with pytest.raises(TrainingStopped, match=r"Process 1 of 2 was killed by signal 9") as stopped:
        train(shared, dataset, out=tmp_path / "run", on_validation=die)

    assert "burnish train --resume run" in stopped.value.fix
    assert not followers() and not (tmp_path / "run" / "artifact").exists()
    train(shared, dataset, resume=tmp_path / "run")
    assert_alike(tmp_path / "run", tmp_path / "one")


def test_a_killed_leader_takes_the_others_along_and_one_process_can_go_on_alone(
    recipe_of, dataset, tmp_path
):
    alone = recipe_of(*USUAL)
    shared = recipe_of(*USUAL, "train.parallel=zero2", "train.devices=2")
    train(alone, dataset, out=tmp_path / "one")
    left = tmp_path / "left"

    def die(step, loss):
        left.write_text(str(followers()[0].pid))
        os.kill(os.getpid(), signal.SIGKILL)

    code = in_child(
        lambda: train(shared, dataset, out=tmp_path / "run", on_validation=die) and None
    )

    assert code == -signal.SIGKILL
    until = time.monotonic() + 30
    while psutil.pid_exists(int(left.read_text())) and time.monotonic() < until:
        time.sleep(0.1)
    assert not psutil.pid_exists(int(left.read_text()))
    train(alone, dataset, resume=tmp_path / "run")
    assert_alike(tmp_path / "run", tmp_path / "one")


def test_torchrun_may_start_the_processes_and_only_one_of_them_speaks(
    tiny, write_rows, tmp_path, workspace
):
    texts = ("red", "green", "blue", "yellow", "apple", "pear", "plum", "one", "two", "three")
    rows = [{"prompt": f"{text} parcel", "completion": text} for text in texts * 2]
    words = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", "burnish", "train", "--train", str(write_rows("rows.jsonl", rows)),
        "--model", tiny.name, "--out", str(tmp_path / "run"), "--set", "train.parallel=ddp",
        "--set", "train.max_steps=2", "--set", "data.test_share=0",
    ]  # fmt: skip

    done = subprocess.run(words, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Fine-tuning") == 1
    assert done.stdout.count("burnish chat") == 1 and (tmp_path / "run" / "artifact").exists()
    assert len(read_journal(tmp_path / "run" / "metrics.jsonl")) >= 2


@pytest.mark.parametrize(
    "changes, message",
    [
        (["train.devices=2"], "devices above 1 go with parallel"),
        (["train.parallel=ddp", "train.objective=grpo"], "grpo doesn't go with parallel ddp"),
        (
            ["train.parallel=ddp", "train.objective={kind: distill, weight: 1, on_policy: 0.5}"],
            "on_policy doesn't go with parallel ddp",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_in_the_recipe(changes, message):
    with pytest.raises(BadRecipe, match=message):
        make_recipe({}, changes)


def test_one_device_is_not_shared(recipe_of, dataset, tmp_path):
    with pytest.raises(BadRecipe, match="needs several devices"):
        train(recipe_of("train.parallel=ddp"), dataset, out=tmp_path / "run")
