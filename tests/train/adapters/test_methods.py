"""Every method leaves an artifact that answers as the trained model did."""

import json
import math

import pytest
import torch
from peft.tuners.lora import LoraLayer

from burnish.core.errors import BadRecipe
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.local.open import open_local_engine
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.models.artifact import load_artifact_model, open_artifact
from burnish.train.adapters.registry import METHODS
from burnish.train.run import train


def loss_of(model, tokenizer, rows):
    """Mean negative log-probability of an answer's token."""
    adapter = "default" if hasattr(model, "peft_config") else None
    found = LocalEngine(MultiLoraModel(model), tokenizer, "trained", adapter).log_likelihood(rows)
    return -sum(log for log, _ in found) / sum(tokens for _, tokens in found)


@pytest.mark.parametrize("method", METHODS)
def test_the_artifact_has_the_validation_loss_of_training(method, dataset, recipe_of, tmp_path):
    recipe = recipe_of(f"train.method={method}", "model.dtype=float32")
    report = train(recipe, dataset, out=tmp_path / "run")

    folder = tmp_path / "run" / "artifact"
    model, tokenizer = load_artifact_model(open_artifact(folder), torch.float32)

    loss = loss_of(model, tokenizer, dataset.split.validation)
    assert math.isclose(loss, report.best_validation_loss, rel_tol=1e-4)
    served = open_local_engine(folder)
    assert math.isclose(
        loss_of(served.model, tokenizer, dataset.split.validation), loss, rel_tol=1e-4
    )


def test_an_adapter_of_4_bits_does_not_share_the_weights_of_16(dataset, recipe_of, tmp_path):
    for method in ("lora", "qlora"):
        train(recipe_of(f"train.method={method}", "train.epochs=1"), dataset, tmp_path / method)

    fleet = open_model_pool(["tiny", str(tmp_path / "lora"), str(tmp_path / "qlora")])

    assert fleet.find("lora").model is fleet.find("tiny").model
    assert fleet.find("qlora").model is not fleet.find("tiny").model


def test_weights_of_4_bits_take_a_quarter_of_the_room(plan_of, dataset):
    plain, packed = (
        plan_of(dataset.split.train, f"train.method={method}", "model.dtype=bfloat16").model
        for method in ("lora", "qlora")
    )

    def frozen(model):
        return sum(
            weight.numel() * weight.element_size()
            for name, weight in model.named_parameters()
            if "proj.base_layer" in name
        )

    assert frozen(packed) * 4 == frozen(plain)


def test_layers_may_have_ranks_of_their_own_and_the_scale_of_rslora(plan_of, dataset):
    plan = plan_of(
        dataset.split.train, "train.method={kind: lora, rank: 8, ranks: {q_proj: 2}, rslora: true}"
    )

    layers = {n: m for n, m in plan.model.named_modules() if isinstance(m, LoraLayer)}
    ranks = {name.rsplit(".", 1)[1]: layer.r["default"] for name, layer in layers.items()}
    assert ranks["q_proj"] == 2 and ranks["k_proj"] == ranks["down_proj"] == 8
    scales = {layer.scaling["default"] for layer in layers.values()}
    assert scales == {32 / math.sqrt(8), 32 / math.sqrt(2)}


def test_an_adapter_is_trained_further(dataset, recipe_of, tmp_path):
    first = train(recipe_of("model.dtype=float32"), dataset, out=tmp_path / "first")

    further = recipe_of("model.dtype=float32", f"train.method.init_from={tmp_path / 'first'}")
    second = train(further, dataset, out=tmp_path / "second")

    assert second.losses[0] < 0.7 * first.losses[0]
    assert second.best_validation_loss < first.best_validation_loss


@pytest.mark.parametrize("other", ["{kind: lora, rank: 4}", "{kind: lora, targets: [q_proj]}"])
def test_an_adapter_of_another_shape_is_refused(other, dataset, recipe_of, tmp_path):
    train(recipe_of("train.max_steps=1"), dataset, out=tmp_path / "first")
    changed = recipe_of(f"train.method={other}", f"train.method.init_from={tmp_path / 'first'}")

    with pytest.raises(BadRecipe, match="adapter of"):
        train(changed, dataset, out=tmp_path / "second")


def test_full_weights_are_no_adapter_to_go_on_from(dataset, recipe_of, tmp_path):
    train(recipe_of("train.method=full", "train.max_steps=1"), dataset, out=tmp_path / "first")

    with pytest.raises(BadRecipe, match="no adapter"):
        train(
            recipe_of(f"train.method.init_from={tmp_path / 'first'}"), dataset, tmp_path / "second"
        )


def test_the_artifact_says_how_its_base_was_held(dataset, recipe_of, tmp_path):
    train(recipe_of("train.method=qlora", "train.max_steps=1"), dataset, out=tmp_path / "run")

    facts = json.loads((tmp_path / "run" / "artifact" / "artifact.json").read_text())
    assert facts["quantized"] == {"kind": "nf4", "double_quant": True}
