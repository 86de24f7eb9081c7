"""What `burnish forecast` reckons is what models, optimizers and trainings hold."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from burnish.core.errors import NotFound
from burnish.core.recipe.methods import Full, Lora
from burnish.core.recipe.train import Train
from burnish.train.adapters.registry import trainable_weights
from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.distributed.zero import ZeroAdamW
from burnish.train.forecast.estimate import estimate_memory, model_shape, shape_from_config
from burnish.train.forecast.known_models import KNOWN_MODELS
from burnish.train.forecast.memory_table import COUNTS, Assumptions, memory_table
from tests.fixtures.training import make_rows

#: Numbers of weights as the makers' pages on the hub state them.
PUBLISHED = {
    "Llama 3.2 1B": 1_235_814_400,
    "Llama 3.2 3B": 3_212_749_824,
    "Qwen 2.5 7B": 7_615_616_512,
    "Llama 3.1 8B": 8_030_261_248,
    "Qwen 2.5 14B": 14_770_033_664,
    "Qwen 2.5 32B": 32_763_876_352,
    "Llama 3.1 70B": 70_553_706_496,
}


def config_of(name):
    model = KNOWN_MODELS[name]
    sizes = {
        "num_hidden_layers": model.layers,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_value_heads,
        "vocab_size": model.vocabulary,
        "tie_word_embeddings": model.tied,
    }
    if model.biased:
        return Qwen2Config(**sizes)
    return LlamaConfig(**sizes, head_dim=model.head_dim)


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_a_public_model_has_as_many_weights_as_its_makers_say(name):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(name))

    built = sum(weight.numel() for weight in model.parameters())

    assert KNOWN_MODELS[name].weights == built == PUBLISHED[name]


@pytest.mark.parametrize("method", [Lora(rank=8), Full()], ids=["lora", "full"])
@pytest.mark.parametrize("name", ["Llama 3.2 1B", "Qwen 2.5 7B", "Llama 3.1 8B"])
def test_its_sizes_are_those_of_the_model_that_transformers_builds(name, method):
    assert KNOWN_MODELS[name].shape(method) == shape_from_config(config_of(name), method)


@pytest.mark.parametrize("method", [Lora(rank=8), Full()], ids=["lora", "full"])
def test_what_is_reckoned_is_what_a_training_holds(method, tiny, plan_of):
    plan = plan_of(make_rows(8), f"train.method={method.model_dump_json()}")
    plan.training_step(plan.rows, 0)
    plan.optimizer.step(0)

    need = estimate_memory(model_shape(tiny, method), plan.settings, "float32")

    held = sum(weight.nbytes for weight in plan.model.parameters())
    summed = sum(master.grad.nbytes for master in plan.optimizer.masters.values())
    passing = sum(weight.nbytes for weight in trainable_weights(plan.model).values())
    copies = sum(master.nbytes for master in plan.optimizer.masters.values())
    counters = 4 * len(plan.optimizer.masters)
    assert need.parameters == held
    assert need.gradients == passing + summed
    assert need.optimizer == copies + plan.optimizer.moment_bytes - counters


@pytest.mark.parametrize("parallel", ["ddp", "zero1", "zero2"])
def test_of_several_processes_each_holds_the_share_that_is_reckoned(parallel, tiny, plan_of):
    plan = plan_of(make_rows(8), "train.method=full")
    settings = Train(method="full", parallel=parallel, devices=4)
    weights = trainable_weights(plan.model)

    shared = ZeroAdamW(weights, settings, 1, ProcessGroup(1, 4, parallel))
    shared.adamw.step()

    need = estimate_memory(model_shape(tiny, Full()), settings, "float32")
    passing = sum(weight.nbytes for weight in weights.values())
    assert need.gradients == pytest.approx(passing + shared.gradient.nbytes, abs=16)
    held = shared.master.nbytes + shared.moment_bytes
    assert need.optimizer == pytest.approx(held, abs=16)


@pytest.mark.long
def test_a_whole_training_without_a_gpu_is_reckoned_to_a_sixth(tiny, tmp_path):
    words = [sys.executable, "-m", "tests.train.forecast.probe_process", "16384", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    settings = Train(micro_batch_tokens=seen["tokens"])

    need = estimate_memory(model_shape(tiny, settings.method), settings, "float32")

    assert need.total == pytest.approx(seen["peak"], rel=1 / 6)
    a_token = (seen["peak"] - seen["half_peak"]) / (seen["tokens"] - seen["half_tokens"])
    assert 0.5 * need.activations < a_token * seen["tokens"] < 1.5 * need.activations


def test_the_table_has_every_way_on_every_count_and_says_what_fits():
    cells = memory_table(Assumptions(memory=80e9))

    ways = {(cell.model, cell.method, cell.parallel, cell.gpus): cell for cell in cells}
    assert len(ways) == len(cells) == len(KNOWN_MODELS) * (3 + (len(COUNTS) - 1) * (3 + 4 + 4))
    assert not ways["Llama 3.1 8B", "full", "none", 1].fits
    assert ways["Llama 3.1 8B", "full", "zero3", 8].fits
    assert ways["Llama 3.1 8B", "qlora", "none", 1].fits
    for cell in cells:
        assert cell.fits == (cell.need.on_device <= 0.9 * 80e9)


def test_more_devices_and_higher_stages_never_need_more():
    cells = memory_table(Assumptions(), "llama 3.2 3b")

    full = {(c.parallel, c.gpus): c.need.on_device for c in cells if c.method == "full"}
    for count in COUNTS[1:]:
        stages = [full[stage, count] for stage in ("ddp", "zero1", "zero2", "zero3")]
        assert stages == sorted(stages, reverse=True) and stages[0] == full["none", 1]
    for stage in ("zero1", "zero2", "zero3"):
        assert full[stage, 2] > full[stage, 4] > full[stage, 8]


def test_tokens_and_rank_count(tiny):
    less, more = (
        {(c.method, c.parallel, c.gpus): c.need for c in memory_table(terms, tiny.name)}
        for terms in (Assumptions(tokens=1024, rank=8), Assumptions(tokens=2048, rank=16))
    )

    key = ("lora", "ddp", 2)
    assert more[key].activations == 2 * less[key].activations
    assert more[key].optimizer == 2 * less[key].optimizer


def test_activations_that_are_kept_take_more_than_those_computed_twice():
    again, kept = (
        memory_table(Assumptions(checkpointing=checkpointing), "Llama 3.2 1B")[0].need
        for checkpointing in (True, False)
    )

    assert kept.activations > 3 * again.activations and kept.parameters == again.parameters


def test_a_model_that_nobody_knows_is_refused(tiny):
    with pytest.raises(NotFound):
        memory_table(Assumptions(), "no-such-model")
