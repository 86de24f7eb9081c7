"""The model learns from what its own answers are worth, as TRL's does, and may be killed."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from burnish.core.journal import read_journal
from burnish.core.runs import Run
from burnish.core.sections import Task
from burnish.evaluate.rewards import worth_of
from burnish.train.drawing import Drawing
from burnish.train.run import train
from tests.train.conftest import die_at_sync, in_child, make_rows, weights

OWN = Path(__file__).with_name("own_reward.py")
REWARD = f"reward: {{kind: file, file: {OWN}}}"


def grpo(**settings):
    """The change of a recipe that learns from the tests' own reward."""
    given = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"train.objective={{kind: grpo, {REWARD}{given}}}"


def test_the_reward_rises(recipe_of, dataset, tmp_path):
    recipe = recipe_of(
        grpo(answers=8, max_new_tokens=8, beta=0.0), "train.epochs=8", "train.batch_size=8",
        "model.dtype=float32", "train.learning_rate=1e-2", "train.evaluate_every=50",
    )  # fmt: skip

    report = train(recipe, dataset, out=tmp_path / "run")

    steps = [e for e in read_journal(tmp_path / "run/metrics.jsonl") if "learning_rate" in e]
    rewards = [entry["reward"] for entry in steps]
    print(rewards)
    assert sum(rewards[-5:]) / 5 > 3 * sum(rewards[:5]) / 5
    assert {"kl", "reward_std", "answer_tokens", "cut", "skipped", "clipped"} <= steps[0].keys()
    assert report.steps == len(steps)
