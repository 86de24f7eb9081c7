"""What would make a run faster is counted, and said where it is worth it."""

from dataclasses import replace

import pytest

from burnish.train.forecast import speed_hints as faster
from burnish.train.forecast.forecast import Forecast
from burnish.train.forecast.memory_claims import Quantity
from burnish.train.forecast.speed_hints import speed_hints
from burnish.train.run import train
from burnish.train.trainers import causal_lm as language
from tests.fixtures.training import make_rows, on_passages
from tests.train.batching.test_sampler import to_compute


def lasting(seconds):
    quantity = Quantity("training time", "seconds", seconds, seconds, seconds)
    return Forecast(quantity, quantity, quantity, ())


def test_what_grouping_would_spare_is_what_it_spares(plan_of):
    rows = on_passages(8)
    plan, grouped = (
        plan_of(rows, "train.batch_size=10", "train.micro_batch_tokens=2048", "train.epochs=1",
                f"train.group_by_prefix={wish}")
        for wish in ("false", "true")
    )  # fmt: skip

    (hint,) = speed_hints(plan, lasting(10))

    assert (
        f"group_by_prefix=true would compute {1 - to_compute(grouped) / to_compute(plan):.0%}"
        in hint
    )
    assert speed_hints(grouped, lasting(10)) == []
    assert speed_hints(plan_of(make_rows(20)), lasting(10)) == []


@pytest.mark.parametrize(
    ("seconds", "compiler", "compiles", "said"),
    [(1000, "/bin/g++", "false", True), (60, "/bin/g++", "false", False),
     (1000, None, "false", False), (1000, "/bin/g++", "true", False)],
)  # fmt: skip
def test_compiling_is_proposed_to_long_runs(
    seconds, compiler, compiles, said, plan_of, monkeypatch
):
    monkeypatch.setattr(faster.shutil, "which", lambda name: compiler)
    plan = plan_of(make_rows(6))
    settings = plan.settings.model_copy(update={"compile": compiles == "true"})

    hints = speed_hints(replace(plan, settings=settings), lasting(seconds))

    assert any("train.compile=true" in hint for hint in hints) is said


def test_a_training_says_it_before_its_first_step(recipe_of, dataset, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(language, "say", heard.append)
    rows = tuple(on_passages(6))
    dataset = replace(dataset, split=replace(dataset.split, train=rows))

    train(recipe_of("train.max_steps=1"), dataset, out=tmp_path / "run")

    assert any("train.group_by_prefix=true" in line for line in heard)
