"""A run is forecast from real steps, which change nothing, and scored afterwards."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from burnish.core.errors import DoesNotFit
from burnish.train.forecast.forecast import (
    check_fits,
    forecast,
    suggest_setting,
)
from burnish.train.forecast.probe import ProbeResult, probe
from burnish.train.run import train
from tests.fixtures.training import make_rows, preferred, preferring


def state_of(plan):
    weights = {name: weight.detach().clone() for name, weight in plan.model.named_parameters()}
    return weights, plan.optimizer.state_tensors(), torch.get_rng_state()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("objective", ["sft", "kto"])
def test_the_rehearsal_changes_no_bit(objective, dtype, plan_of, tmp_path):
    rows = preferring(make_rows(12), "kto") if objective == "kto" else make_rows(12)
    plan = plan_of(
        rows, f"model.dtype={dtype}", "train.method.dropout=0.1", f"train.objective={objective}",
        validation=rows[:3],
    )  # fmt: skip
    weights, exact, random = state_of(plan)
    exact = {name: tensor.clone() for name, tensor in exact.items()}

    probe(plan, tmp_path)

    after, exact_after, random_after = state_of(plan)
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert exact.keys() == exact_after.keys(), "no moments are left"
    assert all(torch.equal(exact[name], exact_after[name]) for name in exact)
    assert all(not master.grad.any() for master in plan.optimizer.masters.values())
    assert torch.equal(random, random_after)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_memory_and_disk_come_out_within_their_intervals(objective, dataset, recipe_of, tmp_path):
    rows = preferred(dataset, objective)

    report = train(recipe_of(f"train.objective={objective}"), rows, out=tmp_path / "run")

    found = {quantity["name"]: quantity for quantity in report.forecast}
    for name in ("peak memory", "disk"):
        line = found[name]
        assert line["low"] <= line["actual"] <= line["high"], line
    assert found["training time"]["low"] < found["training time"]["expected"]


def rehearsed(tokens, folder):
    """A probe in a process of its own."""
    command = [sys.executable, "-m", "tests.train.forecast.probe_process", str(tokens), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return ProbeResult(**json.loads(done.stdout))


def test_a_run_that_does_not_fit_is_refused_with_a_setting_that_does(tiny, tmp_path):
    seen = rehearsed(16384, tmp_path)
    free = 1.10 * (seen.baseline + 0.5 * (seen.peak - seen.baseline))

    advice = suggest_setting(seen, free)

    tokens = int(advice.split("train.micro_batch_tokens=")[1].split(":")[0])
    assert tokens < 0.6 * seen.tokens
    assert rehearsed(tokens, tmp_path).peak < free


def test_less_and_less_room_is_answered_by_smaller_and_smaller_settings(plan_of, tmp_path):
    seen = probe(plan_of(make_rows(64, longest=100)), tmp_path)
    pair = probe(plan_of(preferring(make_rows(4)), "train.objective=dpo"), tmp_path)
    seen = replace(
        seen,
        baseline=800,
        tokens=800,
        peak=1000 + 800 * 10,
        half_tokens=400,
        half_peak=1000 + 400 * 10,
        longest_row=200,
        layers=8,
    )
    assert (seen.answers, pair.answers) == (1, 2)

    def advised(tokens):
        return suggest_setting(seen, 1.10 * (1000 + (tokens + 0.5) * 10))

    assert advised(400) == "Set train.micro_batch_tokens=400: that fits."
    assert "checkpointing=true and train.micro_batch_tokens=40" in advised(100)
    assert "checkpointing=true and train.max_length=16" in advised(40)
    assert "weights alone" in advised(1)
    seen = replace(seen, answers=2)
    assert "checkpointing=true and train.max_length=81" in advised(40)


def test_a_forecast_beyond_the_machine_is_refused_before_a_weight_moves(plan_of, tmp_path):
    plan = plan_of(make_rows(8))
    seen = probe(plan, tmp_path)

    with pytest.raises(DoesNotFit, match=r"need up to .* GB of memory"):
        grown = replace(seen, peak=1 << 50)
        check_fits(grown, forecast(plan, grown), tmp_path)
    with pytest.raises(DoesNotFit, match=r"would write up to .* GB"):
        grown = replace(seen, checkpoint_bytes=1 << 60)
        check_fits(grown, forecast(plan, grown), tmp_path)
    check_fits(seen, forecast(plan, seen), tmp_path)
