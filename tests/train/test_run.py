"""A run makes the model better at its rows and leaves all that is needed to use or repeat it."""

import json

import pytest
import torch

from burnish.core.errors import AuditFailed
from burnish.core.journal import read_journal
from burnish.core.recipe.recipe import load_recipe
from burnish.core.records import Message, Row, Split
from burnish.data.load import Dataset
from burnish.models.artifact import load_artifact_model, open_artifact
from burnish.train.adapters.registry import METHODS, trainable_weights
from burnish.train.loop.language_model import compute_validation_metrics
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.run import train
from tests.fixtures.training import chosen, make_rows, preferred, weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
# What `grpo` learns from has no loss that must fall: tests/train/test_rewards_are_learnt.py.
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "grpo"])
def test_a_run_lowers_the_loss_and_leaves_a_complete_folder(
    objective, method, dtype, dataset, recipe_of, tmp_path
):
    # A few factors learn little on a random model, and begin at 1, a long way to go.
    rate, left = {
        "ia3": (0.1, 0.9),
        "prompt": (0.3, 0.95),
        "prefix": (0.3, 0.95),
        "bottleneck": (5e-3, 0.9),
    }.get(method, (5e-3, 0.8))
    recipe = recipe_of(
        f"train.method={method}",
        *chosen(objective),
        f"model.dtype={dtype}",
        f"train.learning_rate={rate}",
    )

    report = train(recipe, preferred(dataset, objective), out=tmp_path / "run")

    assert report.steps == 13 and report.epochs == 2.0
    assert report.losses[-1] < left * report.losses[0]
    run = tmp_path / "run"
    assert load_recipe(run / "recipe.yaml") == recipe
    assert json.loads((run / "report.json").read_text()) == json.loads(json.dumps(report.as_dict()))
    metrics = read_journal(run / "metrics.jsonl")
    steps = [entry for entry in metrics if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 14))
    assert {"loss", "learning_rate", "grad_norm", "tokens", "seconds"} <= set(steps[0])
    assert [entry["step"] for entry in metrics if "validation_loss" in entry] == [5, 10, 13]
    assert {quantity["name"] for quantity in report.forecast} == {
        "peak memory", "training time", "disk",
    }  # fmt: skip
    assert all(quantity["actual"] > 0 for quantity in report.forecast)


def test_the_artifact_is_the_best_checkpoint_and_gives_its_validation_loss(
    dataset, recipe_of, plan_of, tmp_path
):
    recipe = recipe_of("model.dtype=float32", "train.learning_rate=3e-2", "train.epochs=5")

    report = train(recipe, dataset, out=tmp_path / "run")

    loaded, _ = load_artifact_model(open_artifact(tmp_path / "run" / "artifact"), torch.float32)
    plan = plan_of(dataset.split.train, validation=dataset.split.validation)
    trained = dict(loaded.named_parameters())
    for name, weight in trainable_weights(plan.model).items():
        weight.data.copy_(trained[name])
    loss = compute_validation_metrics(plan, plan.validation)["loss"]
    assert loss == pytest.approx(report.best_validation_loss, rel=1e-5)
    losses = [e.get("validation_loss") for e in read_journal(tmp_path / "run" / "metrics.jsonl")]
    assert report.best_validation_loss == min(loss for loss in losses if loss is not None)


def test_training_stops_when_validation_no_longer_falls(dataset, recipe_of, tmp_path):
    recipe = recipe_of(
        "train.learning_rate=0.1", "train.epochs=40", "train.evaluate_every=2", "train.patience=2"
    )

    report = train(recipe, dataset, out=tmp_path / "run")

    assert report.steps < 260
    assert "validation loss" in report.stopped


def test_the_same_seed_gives_the_same_bits_and_another_one_other_bits(dataset, recipe_of, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(recipe_of("train.max_steps=4", f"train.seed={seed}"), dataset, tmp_path / name)

    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert weights(tmp_path / "one") != weights(tmp_path / "three")


def test_adapters_may_drop_out_and_still_learn(dataset, recipe_of, tmp_path):
    report = train(recipe_of("train.method.dropout=0.2"), dataset, out=tmp_path / "run")

    assert report.losses[-1] < 0.9 * report.losses[0]


def test_gradient_checkpointing_changes_no_loss(dataset, recipe_of, tmp_path):
    reports = [
        train(
            recipe_of("model.dtype=float32", f"train.gradient_checkpointing={again}"),
            dataset,
            out=tmp_path / again,
        )
        for again in ("true", "false")
    ]

    assert reports[0].losses == pytest.approx(reports[1].losses, rel=1e-5)


def test_rows_that_would_teach_the_wrong_tokens_stop_the_run_before_it_begins(recipe_of, tmp_path):
    silent = Row((Message("user", "red"), Message("assistant", "pear", weight=0)), file="a", line=7)
    rows = Dataset(
        split=Split((*make_rows(4), silent), (), ()),
        task=recipe_of().task,
        findings=(),
        notes=(),
        hashes={},
    )

    with pytest.raises(AuditFailed, match="a, row 7: The row has no target token"):
        train(recipe_of(), rows, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
