"""AdamW with moments of 8 bits beside PyTorch's."""

import pytest
import torch

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.train.optim.adamw import MasterAdamW
from burnish.train.optim.adamw_8bit import AdamW8bit

pytest.importorskip("bitsandbytes")


def weights_of(*sizes):
    torch.manual_seed(0)
    return {str(n): torch.nn.Parameter(torch.randn(size)) for n, size in enumerate(sizes)}


def settings_of(*changes):
    usual = ["train.learning_rate=1e-2", "train.schedule=constant", "train.warmup_ratio=0"]
    return make_recipe({}, [*usual, *changes]).train


def optimizers(*sizes, decay=0.1):
    """Both, on the same weights."""

    def build(kind):
        changes = (f"train.optimizer={kind}", f"train.weight_decay={decay}")
        return MasterAdamW(weights_of(*sizes), settings_of(*changes), 100)

    return build("adamw"), build("adamw_8bit")


def learn(optimizer, number, target):
    """One update towards `target`, with a gradient that is a little noisy."""
    torch.manual_seed(number)
    for weight in optimizer.weights.values():
        weight.grad = weight.detach() - target + 0.1 * torch.randn_like(weight)
    optimizer.accumulate()
    optimizer.step(number)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_weight_decay_pulls_matrices_and_no_norms_or_biases(kind):
    torch.manual_seed(0)
    names = ("layers.0.q_proj.weight", "layers.0.q_proj.bias", "layers.0.input_layernorm.weight",
             "transformer.h.0.ln_1.weight", "encoder.LayerNorm.weight", "embed.weight")  # fmt: skip
    weights = {name: torch.nn.Parameter(torch.rand(8, 8) + 1) for name in names}
    begun = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = MasterAdamW(
        weights, settings_of(f"train.optimizer={kind}", "train.weight_decay=0.1"), 100
    )

    optimizer.step(0)  # no gradients: nothing but the decay moves a weight

    moved = {name for name, weight in weights.items() if not torch.equal(weight, begun[name])}
    assert moved == {"layers.0.q_proj.weight", "embed.weight"}
    torch.testing.assert_close(weights["embed.weight"], begun["embed.weight"] * (1 - 1e-3))


def test_the_first_update_is_the_exact_one_and_later_ones_stay_near():
    exact, rounded = optimizers((100, 100), (1000,), (5000,))
    begun = {name: weight.detach().clone() for name, weight in exact.weights.items()}

    for number in range(30):
        for optimizer in (exact, rounded):
            learn(optimizer, number, target=0.3)
        if number == 0:
            for name, weight in exact.weights.items():
                torch.testing.assert_close(rounded.weights[name], weight, rtol=0, atol=1e-6)

    for name, weight in exact.weights.items():
        moved = (weight - begun[name]).norm()
        assert (rounded.weights[name] - weight).norm() < 0.02 * moved
    # 1,000 numbers are too few to be rounded.
    torch.testing.assert_close(rounded.weights["1"], exact.weights["1"])


def test_the_moments_take_a_quarter_of_the_memory():
    exact, rounded = optimizers((1000, 1000))
    for optimizer in (exact, rounded):
        learn(optimizer, 0, target=0)

    assert rounded.moment_bytes == pytest.approx(2 * (1 + 4 / 256) * 1e6, rel=1e-3)
    assert rounded.moment_bytes < 0.26 * exact.moment_bytes


def test_stretches_are_what_the_whole_would_be(monkeypatch):
    whole, parts = (optimizers((10_001,))[1] for _ in range(2))
    for number in range(3):
        learn(whole, number, target=1)
    monkeypatch.setattr("burnish.train.optim.adamw_8bit._CHUNK", 2560)
    for number in range(3):
        learn(parts, number, target=1)

    assert torch.equal(whole.weights["0"], parts.weights["0"])


def test_what_is_saved_goes_on_to_the_same_bits():
    _, one = optimizers((300, 20), (7,))
    _, other = optimizers((300, 20), (7,))
    for number in range(3):
        learn(one, number, target=0)

    other.restore({name: tensor.clone() for name, tensor in one.state_tensors().items()})
    for number in range(3, 6):
        for optimizer in (one, other):
            learn(optimizer, number, target=0)

    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name])
    one.reset()
    assert one.moment_bytes == 0


def test_an_update_at_rate_0_moves_nothing():
    _, optimizer = optimizers((100, 100))
    before = optimizer.weights["0"].detach().clone()

    for weight in optimizer.weights.values():
        weight.grad = torch.ones_like(weight)
    optimizer.accumulate()
    optimizer.step(0, rate=0.0)

    assert torch.equal(optimizer.weights["0"], before)
    assert isinstance(optimizer.adamw, AdamW8bit)


def test_several_processes_have_all_bits():
    with pytest.raises(BadRecipe, match="adamw_8bit doesn't go with parallel"):
        settings_of("train.optimizer=adamw_8bit", "train.parallel=ddp", "train.devices=2")
