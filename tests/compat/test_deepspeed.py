"""DeepSpeed's file becomes a recipe: every key is meant, named in a note, or refused by name."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.compat.deepspeed import KEYS, read_deepspeed
from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe

#: As accelerate's and transformers' documents show it, with numbers.
USUAL = {
    "bf16": {"enabled": True},
    "fp16": {"enabled": False, "loss_scale": 0, "hysteresis": 2},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 3e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01},
    },
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {
            "warmup_min_lr": 0,
            "warmup_max_lr": 3e-4,
            "warmup_num_steps": 50,
            "total_num_steps": 500,
            "warmup_type": "linear",
        },
    },
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": {"device": "none", "pin_memory": True},
        "overlap_comm": True,
        "reduce_bucket_size": 5e8,
    },
    "gradient_accumulation_steps": 4,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_clipping": 0.5,
    "steps_per_print": 2000,
}
AUTO = {
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
    "zero_optimization": {"stage": 3},
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}


@pytest.fixture
def meant(tmp_path):
    """What a configuration comes to."""

    def read(values):
        file = tmp_path / "ds_config.json"
        file.write_text(values if isinstance(values, str) else json.dumps(values))
        return read_deepspeed(file)

    return read


def train_of(found, *changes):
    first = make_recipe({}, [*found.changes, *changes])
    return make_recipe({}, [*found.changes, *found.dependent(first.train), *changes])


def test_a_usual_file_becomes_a_recipe(meant):
    found = meant(USUAL)

    recipe = train_of(found, "train.devices=4")

    train = recipe.train
    assert recipe.model.dtype == "bfloat16"
    assert (train.parallel, train.devices, train.batch_size) == ("zero2", 4, 2 * 4 * 4)
    assert (train.learning_rate, train.weight_decay, train.max_grad_norm) == (3e-4, 0.01, 0.5)
    assert (train.schedule, train.max_steps, train.warmup_ratio) == ("linear", 500, 0.1)


def test_what_changes_nothing_is_named(meant):
    notes = " ".join(meant(USUAL).notes)

    for name in ("overlap_comm", "reduce_bucket_size", "steps_per_print", "fp16.loss_scale",
                 "offload_optimizer.pin_memory"):  # fmt: skip
        assert f"{name} changes nothing here" in notes


def test_auto_leaves_the_recipe_as_it_is_and_says_so(meant):
    found = meant(AUTO)

    recipe = train_of(found, "train.devices=2", "train.learning_rate=7e-5")

    before = make_recipe(
        {}, ["train.parallel=zero3", "train.devices=2", "train.schedule=constant",
             "train.learning_rate=7e-5"],
    )  # fmt: skip
    assert recipe == before
    assert sum("is auto" in note for note in found.notes) == str(AUTO).count("auto")


#: What only says what burnish does anyway, or says the rate twice.
IDLE = {
    "optimizer.type", "optimizer.params.lr", "optimizer.params.betas", "optimizer.params.eps",
    "fp16.enabled", "scheduler.params.warmup_min_lr", "scheduler.params.warmup_max_lr",
    "zero_optimization.offload_optimizer.device",
}  # fmt: skip


def without_one(values, before=""):
    """(dotted key, the file without it), for every key that has a value."""
    for name, value in values.items():
        rest = {other: values[other] for other in values if other != name}
        if isinstance(value, dict):
            for key, left in without_one(value, f"{before}{name}."):
                yield key, {**rest, name: left}
        else:
            yield before + name, rest


@pytest.mark.parametrize("values, idle", [(USUAL, IDLE), (AUTO, {"optimizer.type"})])
def test_no_key_is_dropped_silently(values, idle, meant):
    def told(file):
        found = meant(file)
        return set(found.changes), set(found.notes), found.rows_per_process, found.warmup_steps

    assert {key for key, left in without_one(values) if told(left) == told(values)} == idle


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "qlora"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "offload_param.device"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage"),
        ({"zero_optimization": {"zero_quantized_weights": True}}, "quantized_weights isn't known"),
        ({"fp16": {"enabled": True}}, "use bf16"),
        ({"optimizer": {"type": "Lamb"}}, "AdamW"),
        ({"optimizer": {"params": {"betas": [0.8, 0.99]}}}, "betas"),
        ({"scheduler": {"type": "OneCycle"}}, "OneCycle"),
        ({"gradient_clip": 1.0}, "gradient_clipping is"),
        ({"train_micro_batch_size_per_gpu": 1.5}, "whole number"),
        ('{"steps_per_print": 1, "steps_per_print": 2}', "stands twice"),
        ("[]", "not a JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(changed, message, meant):
    with pytest.raises(BadRecipe, match=message.replace(".", r"\.")):
        meant(changed)


def test_all_that_is_refused_is_named_at_once(meant):
    with pytest.raises(BadRecipe) as refused:
        meant({"fp16": {"enabled": True}, "pipeline": {"stages": 2}})

    assert "fp16.enabled" in str(refused.value) and "pipeline.stages" in str(refused.value)


def test_a_batch_of_each_process_wants_their_number_and_a_warm_up_that_of_all_steps(meant):
    with pytest.raises(BadRecipe, match=r"--set train\.devices=N"):
        train_of(meant({"train_micro_batch_size_per_gpu": 2}))
    with pytest.raises(BadRecipe, match=r"--set train\.max_steps=N"):
        train_of(meant({"scheduler": {"type": "WarmupLR"}}))

    alone = train_of(meant({"train_micro_batch_size_per_gpu": 2}), "train.parallel=none")
    warmed = train_of(meant({"scheduler": {"type": "WarmupLR"}}), "train.max_steps=4000")
    assert (alone.train.batch_size, warmed.train.warmup_ratio) == (2, 0.25)


def test_the_scheduler_has_the_last_word_on_the_rate_wherever_it_stands(meant):
    scheduler = {"params": {"warmup_max_lr": 1e-3}}
    optimizer = {"params": {"lr": 1e-4}}

    for values in (
        {"scheduler": scheduler, "optimizer": optimizer},
        {"optimizer": optimizer, "scheduler": scheduler},
    ):
        found = meant(values)
        assert train_of(found).train.learning_rate == 1e-3
        assert any("taken before optimizer.params.lr" in note for note in found.notes)


@pytest.mark.parametrize("name", KEYS)
def test_every_key_says_what_becomes_of_it(name):
    key = KEYS[name]

    assert not (key.values and not key.refused) and not (key.field and key.ignored)


def test_the_command_prints_a_recipe_that_is_read_again(tmp_path):
    file = tmp_path / "ds_config.json"
    file.write_text(json.dumps(USUAL))

    done = CliRunner().invoke(
        app, ["recipe", "--from-deepspeed", str(file), "--set", "train.devices=2"]
    )

    assert done.exit_code == 0 and done.stdout.startswith("# fp16.loss_scale changes nothing here")
    assert make_recipe(yaml.safe_load(done.stdout)).train.batch_size == 16
