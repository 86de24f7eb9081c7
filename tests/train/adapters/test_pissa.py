"""PiSSA begins as the base, moves its main parts, and leaves an ordinary adapter."""

import json
import math

import pytest
import torch

from burnish.core.errors import BadRecipe
from burnish.models.artifact import load_artifact_model, open_artifact
from burnish.models.load import load_model
from burnish.train.loop.language_model import compute_validation_metrics
from burnish.train.run import train
from tests.fixtures.training import die_at_sync, weights
from tests.fixtures.worker_process import in_child
from tests.train.adapters.test_methods import loss_of

PISSA = "train.method={kind: lora, rank: 8, alpha: 8, init: pissa, ranks: {q_proj: 4}}"


def test_it_begins_as_the_base(dataset, plan_of):
    losses = [
        compute_validation_metrics(plan, plan.rows)["loss"]
        for plan in (
            plan_of(dataset.split.train, method) for method in (PISSA, "train.method=lora")
        )
    ]

    assert math.isclose(*losses, rel_tol=1e-5)


def test_the_adapter_is_the_best_of_its_rank(dataset, plan_of, tiny):
    plan = plan_of(dataset.split.train, PISSA)
    layer = plan.model.get_base_model().model.layers[0].mlp.up_proj
    whole = load_model(tiny, torch.float32).model.layers[0].mlp.up_proj.weight.detach()

    sizes = torch.linalg.svdvals(whole)

    left = float(torch.linalg.matrix_norm(layer.base_layer.weight))
    # The decomposition is randomised, and the singular values of a random matrix lie close.
    assert math.isclose(left, float(sizes[8:].norm()), rel_tol=0.01)
    assert left < 0.95 * float(sizes.norm())


@pytest.mark.parametrize("rslora", ["false", "true"])
def test_the_artifact_is_an_ordinary_adapter_of_twice_the_rank(
    rslora, dataset, recipe_of, tmp_path
):
    recipe = recipe_of(PISSA, f"train.method.rslora={rslora}", "model.dtype=float32")
    report = train(recipe, dataset, out=tmp_path / "run")

    folder = tmp_path / "run" / "artifact"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (16, {"q_proj": 8})
    model, tokenizer = load_artifact_model(open_artifact(folder), torch.float32)
    loss = loss_of(model, tokenizer, dataset.split.validation)
    assert math.isclose(loss, report.best_validation_loss, rel_tol=1e-4)
    assert report.losses[-1] < report.losses[0]


def test_a_killed_run_ends_in_the_same_bits(dataset, recipe_of, tmp_path):
    recipe = recipe_of(PISSA, "model.dtype=bfloat16")
    train(recipe, dataset, out=tmp_path / "whole")

    def first():
        die_at_sync(12)
        train(recipe, dataset, out=tmp_path / "killed")

    assert in_child(first) == -9
    train(recipe, dataset, resume=tmp_path / "killed")

    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_a_rank_above_the_layers_width_is_refused(dataset, plan_of):
    with pytest.raises(BadRecipe, match="singular vectors"):
        plan_of(dataset.split.train, "train.method={kind: lora, rank: 48, init: pissa}")


def test_it_begins_once(recipe_of):
    with pytest.raises(BadRecipe, match="init_from"):
        recipe_of("train.method={kind: lora, init: pissa, start: last}")
