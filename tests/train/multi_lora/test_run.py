"""Adapters trained together end where each would have ended alone."""

import itertools
import json
import os
import random

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from burnish import api
from burnish.cli.main import app
from burnish.core.errors import BadRecipe
from burnish.core.journal import read_journal
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import Run
from burnish.engines.registry import open_engine
from burnish.models.artifact import open_artifact
from burnish.train.multi_lora.run import train_together
from burnish.train.run import train
from tests.fixtures.training import WORDS, die_at_sync, weights
from tests.fixtures.worker_process import in_child

KILLED = -9


def rows(count, seed, worse=False):
    draw = itertools.cycle(WORDS[seed:] + WORDS[:seed])
    found = []
    for number in range(count):
        asked = " ".join(next(draw) for _ in range(2 + number % 5))
        row = {"prompt": f"{asked} {number}", "completion": f"{next(draw)} {next(draw)}"}
        if worse:
            row = {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "no"}
        found.append(row)
    return found


@pytest.fixture
def recipes(tiny, write_rows):
    """Three adapters: of other rows, ranks, layers, lengths, seeds, and one of preferences."""

    def recipe(name, worse, *changes):
        file = write_rows(f"{name}.jsonl", rows(22, len(name), worse))
        usual = (
            "train.batch_size=4", "train.epochs=2", "train.threads=1", "model.dtype=float32",
            "train.patience=0", "train.micro_batch_tokens=64", "train.checkpoint_every=4",
            "train.learning_rate=5e-3", "data.test_share=0", "data.near_duplicate=1.0",
        )  # fmt: skip
        return make_recipe(
            {"model": {"name": tiny.name}, "data": {"train": [str(file)]}}, [*usual, *changes]
        )

    return {
        "a": recipe("a", False, "train.method.rank=4"),
        "bb": recipe("bb", False, "train.method.targets=[q_proj,down_proj]", "train.seed=3",
                     "train.epochs=1", "task.prompt=Say it."),
        "ccc": recipe("ccc", True, "train.objective=orpo", "train.batch_size=3"),
    }  # fmt: skip


def adapter(run):
    return load_file(run / "artifact" / "adapter_model.safetensors")


def test_each_ends_in_the_weights_that_it_has_alone(recipes, tmp_path):
    reports = train_together(recipes, tmp_path / "both")

    for (name, recipe), report in zip(recipes.items(), reports, strict=True):
        alone = train(recipe, out=tmp_path / name)
        assert report.steps == alone.steps
        assert report.losses == pytest.approx(alone.losses, rel=1e-4)
        assert report.best_validation_loss == pytest.approx(alone.best_validation_loss, rel=1e-4)
        ours, theirs = adapter(tmp_path / "both" / name), adapter(tmp_path / name)
        assert ours.keys() == theirs.keys()
        for key, weight in theirs.items():
            torch.testing.assert_close(ours[key], weight, rtol=1e-3, atol=2e-5)
        assert any(weight.abs().max() > 1e-3 for key, weight in theirs.items() if "lora_B" in key)


def test_what_is_left_is_a_run_like_any_other(recipes, tmp_path):
    train_together(recipes, tmp_path)

    for name, recipe in recipes.items():
        run = Run(tmp_path / name)
        assert run.recipe.train == recipe.train
        assert open_artifact(run.artifact).lineage["run"] == name
        assert open_engine(str(run.path)).context_length
        forecast = {one["name"]: one for one in run.read("report.json")["forecast"]}
        memory = forecast["peak memory"]
        assert memory["low"] <= memory["actual"] <= memory["high"]
        entries = read_journal(run.path / "metrics.jsonl")
        assert [one["step"] for one in entries if "grad_norm" in one] == list(
            range(1, run.read("report.json")["steps"] + 1)
        )


def test_killed_in_the_middle_of_writes_all_end_in_the_same_bits(recipes, tmp_path):
    train_together(recipes, tmp_path / "whole")
    syncs = tmp_path / "syncs"

    def count():
        real, calls = os.fsync, []
        os.fsync = lambda descriptor: (calls.append(1), real(descriptor))
        train_together(recipes, tmp_path / "counted")
        syncs.write_text(str(len(calls)))

    assert in_child(count) == 0
    for moment in random.Random(0).sample(range(20, int(syncs.read_text()) - 4), 3):
        folder = tmp_path / f"cut{moment}"

        def cut(folder=folder, moment=moment):
            die_at_sync(moment)
            train_together(recipes, folder)

        assert in_child(cut) == KILLED
        train_together(recipes, folder)
        for name in recipes:
            assert weights(folder / name) == weights(tmp_path / "whole" / name), moment
            steps = [
                [one["step"] for one in read_journal(place / name / "metrics.jsonl")]
                for place in (folder, tmp_path / "whole")
            ]
            assert steps[0] == steps[1], "no step twice, none missing"


@pytest.mark.parametrize(
    "change, words",
    [
        ("train.method=dora", "train.method=dora"),
        ("train.method.dropout=0.1", "dropout"),
        ("train.objective=dpo", "train.objective=dpo"),
        ("model.dtype=bfloat16", "another model"),
        ("train.keep_checkpoints=1", "keep_checkpoints"),
    ],
)
def test_what_cannot_be_trained_together_is_refused_with_the_reason(
    recipes, tmp_path, change, words
):
    values = recipes["bb"].model_dump(mode="json")
    other = make_recipe(values, ["train.method=lora", change])

    with pytest.raises(BadRecipe, match=words):
        train_together({**recipes, "bb": other}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_trains_the_recipes_and_refuses_what_means_nothing(recipes, tmp_path):
    files = [tmp_path / f"{name}.yaml" for name in ("a", "bb")]
    for file in files:
        recipes[file.stem].save(file)
    said = ["train", str(files[0]), "--together", str(files[1]), "--set", "train.max_steps=2"]
    run = CliRunner().invoke(app, [*said, "--out", str(tmp_path / "out"), "--json"])

    assert [report["steps"] for report in json.loads(run.stdout)] == [2, 2]
    assert open_artifact(tmp_path / "out" / "bb" / "artifact").kind == "adapter"
    assert isinstance(CliRunner().invoke(app, said).exception, BadRecipe)
    with pytest.raises(BadRecipe, match="same file name"):
        api.train(files[0], tmp_path / "twice", together=[tmp_path / "." / "a.yaml"])
