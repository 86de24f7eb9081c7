"""Training for weights of 4 bits: what was trained is what the file holds, and it loses less."""

from dataclasses import replace

import gguf
import pytest
import torch

from burnish.core.errors import BadRecipe
from burnish.core.records import Split
from burnish.engines.local.open import open_local_engine
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.registry import write_export
from burnish.models.artifact import open_artifact
from burnish.models.merge import load_merged_model
from burnish.models.quantization.q4_0 import round_model_to_q4_0, round_to_q4_0
from burnish.train.loop.language_model import train_step
from burnish.train.run import train
from tests.fixtures.training import die_at_sync, make_rows, weights
from tests.fixtures.worker_process import in_child
from tests.train.adapters.test_methods import loss_of

Q4_0 = gguf.GGMLQuantizationType.Q4_0
AWARE = "train.quantization_aware=q4_0"
METHODS = ("lora", "full")


def by_gguf(weight):
    return torch.tensor(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), Q4_0), Q4_0))


@pytest.mark.parametrize("scale", [1e-6, 0.02, 3.0])
def test_the_grid_is_that_of_the_file_to_the_last_bit(scale):
    torch.manual_seed(0)
    weight = torch.randn(48, 96) * scale
    weight[3, :32], weight[4, 5], weight[4, 6] = 0, weight[4].abs().max(), -weight[4].abs().max()

    assert torch.equal(round_to_q4_0(weight), by_gguf(weight))
    assert torch.equal(round_to_q4_0(round_to_q4_0(weight)), round_to_q4_0(weight)), (
        "it stays where it is"
    )


def moved(plan):
    """The plan with an adapter that does something."""
    torch.manual_seed(3)
    for name, weight in plan.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return plan


def straight_through(layer):
    """What a layer with an adapter computes, as autograd understands it: rounding is a constant."""

    def forward(x):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        merged = layer.base_layer.weight + layer.scaling["default"] * (b @ a)
        return x @ (merged + (by_gguf(merged.detach()) - merged).detach()).T

    return forward


def test_gradients_are_those_of_the_rounded_weights_straight_through(plan_of):
    rows = make_rows(6, system="Sort.")
    ours, theirs = moved(plan_of(rows, AWARE)), moved(plan_of(rows))
    for layer in theirs.model.modules():
        if hasattr(layer, "lora_A"):
            layer.forward = straight_through(layer)

    losses = [train_step(plan, plan.rows)["loss"] for plan in (ours, theirs)]

    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name, exact in ours.optimizer.masters.items():
        want = theirs.optimizer.masters[name].grad
        assert torch.allclose(exact.grad, want, atol=1e-5 * float(want.abs().max() + 1)), name


def test_all_weights_learn_rounded_and_stay_exact(plan_of):
    rows = make_rows(6, system="Sort.")
    plain, aware = (plan_of(rows, "train.method=full", *more) for more in ((), (AWARE,)))
    exact = {name: weight.clone() for name, weight in aware.model.named_parameters()}

    loss = train_step(aware, aware.rows)["loss"]

    assert all(torch.equal(weight, exact[name]) for name, weight in aware.model.named_parameters())
    round_model_to_q4_0(plain.model)
    assert loss == pytest.approx(train_step(plain, plain.rows)["loss"], abs=1e-5)
    for name, master in aware.optimizer.masters.items():
        assert torch.allclose(master.grad, plain.optimizer.masters[name].grad, atol=1e-4), name


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lora", ("train.epochs=60", "train.learning_rate=5e-3")),
        ("full", ("train.epochs=30", "train.learning_rate=2e-3")),
    ],
)
def test_rounded_it_answers_better_than_what_was_trained_without(
    method, changes, recipe_of, dataset, tmp_path
):
    known = replace(dataset, split=Split(dataset.split.train, dataset.split.train, ()))
    usual = (
        f"train.method={method}", "train.batch_size=13", "train.micro_batch_tokens=2048",
        "train.evaluate_every=30", "train.checkpoint_every=1000", "model.dtype=float32",
    )  # fmt: skip
    losses = {}
    for name, more in (("plain", ()), ("aware", (AWARE,))):
        report = train(recipe_of(*usual, *changes, *more), known, tmp_path / name)
        model, tokenizer = load_merged_model(open_artifact(tmp_path / name / "artifact"))
        round_model_to_q4_0(model)
        losses[name] = loss_of(model, tokenizer, known.split.train)

    assert losses["aware"] == pytest.approx(report.best_validation_loss, rel=1e-3)
    assert losses["aware"] < 0.95 * losses["plain"]


@pytest.mark.parametrize("method", METHODS)
def test_a_q4_0_file_holds_exactly_what_was_trained(method, recipe_of, dataset, tmp_path):
    train(
        recipe_of(f"train.method={method}", AWARE, "model.dtype=float32"), dataset, tmp_path / "run"
    )
    artifact = open_artifact(tmp_path / "run" / "artifact")

    answering = open_local_engine(tmp_path / "run" / "artifact").model
    written = write_export(tmp_path / "out", artifact, "gguf", "q4_0")

    file = gguf.GGUFReader(written.path / "model-q4_0.gguf")
    held = {tensor.name: tensor for tensor in file.tensors}["blk.1.ffn_down.weight"]
    down = torch.tensor(gguf.quants.dequantize(held.data, held.tensor_type))
    assert held.tensor_type == Q4_0
    assert torch.equal(down, answering.model.layers[1].mlp.down_proj.weight)


def test_an_adapter_for_rounded_weights_is_never_served_beside_its_base(
    recipe_of, dataset, tmp_path
):
    train(recipe_of(AWARE), dataset, tmp_path / "run")
    fleet = open_model_pool(["tiny", str(tmp_path / "run")])

    assert fleet.find("run").model is not fleet.find("tiny").model
    with pytest.raises(CannotExport, match="rounded as q4_0"):
        write_export(
            tmp_path / "out", open_artifact(tmp_path / "run/artifact"), "gguf-lora", "q8_0"
        )
    assert not (tmp_path / "out").exists()


def test_killed_in_the_middle_it_ends_in_the_same_bits(recipe_of, dataset, tmp_path):
    recipe = recipe_of(AWARE, "model.dtype=bfloat16")
    train(recipe, dataset, out=tmp_path / "whole")
    run = tmp_path / "killed"

    def first():
        die_at_sync(40)
        train(recipe, dataset, out=run)

    assert in_child(first) == -9
    assert list((run / "checkpoints").iterdir()), "it died between checkpoints"
    train(recipe, dataset, resume=run)

    assert weights(run) == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [
        "train.method=qlora", "train.method={kind: lora, dropout: 0.1}", "train.method=auto",
        "train.objective=dpo", "train.parallel=zero3",
    ],
)  # fmt: skip
def test_what_cant_be_rounded_is_refused_by_the_recipe(change, recipe_of):
    with pytest.raises(BadRecipe, match="quantization_aware doesn't go with"):
        recipe_of(AWARE, change)
