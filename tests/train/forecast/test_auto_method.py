"""`train.method: auto` takes the first way that fits into the memory that is free."""

import pytest

from burnish.core.errors import DoesNotFit
from burnish.core.progress import LineReporter, set_reporter
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import Run
from burnish.models.local_models import Resolved, find_model
from burnish.train.forecast import auto_method as auto
from burnish.train.forecast.estimate import ModelShape, estimate_memory, model_shape
from burnish.train.run import train

#: The sizes of a well-known model of 8 billion weights, with adapters of rank 16.
EIGHT_BILLION = ModelShape(
    layers=32, hidden=4096, intermediate=14336, key_value_width=1024,
    frozen=8_030_000_000, linear=6_980_000_000, trainable=41_900_000,
)  # fmt: skip


def recipe(model, **settings):
    return make_recipe({"model": {"name": model}, "train": {"method": "auto", **settings}})


@pytest.fixture
def free(monkeypatch):
    """Set the bytes that are free."""

    def set_to(count):
        monkeypatch.setattr(auto, "available_memory", lambda: count)

    return set_to


def test_with_plenty_the_recipe_stays_as_it_is_but_for_the_method(tiny, free, capsys):
    free(100e9)
    set_reporter(LineReporter())
    asked = recipe(tiny.name, method={"kind": "auto", "rank": 4})

    found = auto.resolve_auto_method(Resolved.of(asked)).train

    assert (found.method.kind, found.method.rank) == ("lora", 4)
    assert found.model_copy(update={"method": asked.train.method}) == asked.train
    assert "train.method=lora fits as it is" in capsys.readouterr().err


def test_less_memory_takes_slower_ways_one_after_the_other(tiny, free, monkeypatch):
    asked = recipe(tiny.name)
    ways = list(auto._candidates(asked.train, asked.train.method))
    monkeypatch.setattr(auto, "model_shape", lambda *_: EIGHT_BILLION)
    needs = [estimate_memory(EIGHT_BILLION, way, "auto").total for way in ways]

    chosen = []
    for need in sorted(set(needs), reverse=True):
        free(need / auto._SHARE)
        chosen.append(ways.index(auto.resolve_auto_method(Resolved.of(asked)).train))

    assert chosen == sorted(chosen) and chosen[0] == 0 and len(chosen) > 4
    kinds = [(ways[at].method.kind, ways[at].gradient_checkpointing) for at in chosen]
    assert [*dict.fromkeys(kinds)] == [("lora", False), ("lora", True), ("qlora", True)]


def test_a_large_model_is_held_in_four_bits():
    train_ = recipe("any").train
    ways = [*auto._candidates(train_, train_.method)]
    first = next(
        way for way in ways if estimate_memory(EIGHT_BILLION, way, "bfloat16").total < 12e9
    )

    assert first.method.kind == "qlora" and first.gradient_checkpointing


def test_what_fits_nowhere_is_refused_with_the_least_that_it_needs(tiny, free, workspace):
    free(0.3e9)

    with pytest.raises(DoesNotFit, match=r"needs about 0\.\d GB even on 4-bit weights and 0\.3 GB"):
        auto.resolve_auto_method(Resolved.of(recipe(tiny.name)))


def test_a_run_has_what_was_chosen_in_its_recipe_and_goes_on_with_it(tiny, free, dataset, tmp_path):
    free(100e9)
    asked = recipe(tiny.name, max_steps=2)

    done = train(asked, dataset, out=tmp_path / "run")

    assert Run(tmp_path / "run").recipe.train.method.kind == "lora"
    free(0)
    again = train(asked, dataset, resume=tmp_path / "run")
    assert again.steps == done.steps == 2


def test_sizes_are_those_of_the_loaded_model(tiny, tiny_model):
    shape = model_shape(find_model(tiny.name), recipe(tiny.name).train.method)

    assert shape.frozen == sum(weight.numel() for weight in tiny_model.parameters())
    assert shape.layers == tiny_model.config.num_hidden_layers
    assert 0 < shape.linear < shape.frozen and shape.trainable > 0


@pytest.mark.parametrize(
    "parallel, shared",
    # A float32 copy and two moments; and the summed gradient; and weight and gradient of a pass.
    [("none", 0), ("ddp", 0), ("zero1", 12), ("zero2", 16), ("zero3", 20)],
)
def test_of_what_is_divided_each_device_needs_its_share(parallel, shared):
    shape = ModelShape(
        layers=2,
        hidden=64,
        intermediate=128,
        key_value_width=32,
        frozen=0,
        linear=10**9,
        trainable=10**9,
    )
    alone = make_recipe({}, ["train.method=full"]).train
    several = alone.model_copy(update={"parallel": parallel, "devices": 4})

    saved = (
        estimate_memory(shape, alone, "bfloat16").total
        - estimate_memory(shape, several, "bfloat16").total
    )

    # One of two layers, of weights and of gradients, as it is sent and as it is used.
    layer = 2 * 2 * 2 * 10**9 / 2 if parallel == "zero3" else 0
    assert saved == pytest.approx(shared * 10**9 * 3 / 4 - layer)
