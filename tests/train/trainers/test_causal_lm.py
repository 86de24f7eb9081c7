"""The trainer of language models calls an objective's stages and knows none of them by name."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from burnish.core.recipe.objectives import Sft
from burnish.train.loop.language_model import Stage
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.objectives.sft import sft
from burnish.train.run import train
from burnish.train.trainers import causal_lm

MOMENTS = (
    "extend_model", "prepare", "for_probe", "rows_to_score", "before_first_step", "before_save",
)  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """The names of a stage's methods in the order in which `sft` calls them."""
    names = []

    def recording(name):
        def method(self, *arguments):
            names.append(name)
            return getattr(Stage, name)(self, *arguments)

        return method

    stage = type("Recording", (Stage,), {name: recording(name) for name in MOMENTS})()
    monkeypatch.setitem(OBJECTIVES, "sft", lambda settings: replace(sft(settings), stages=(stage,)))
    return names


def test_each_stage_is_called_at_its_moment_of_a_run(calls, recipe_of, dataset, tmp_path):
    train(recipe_of("train.max_steps=2"), dataset, out=tmp_path / "run")

    assert tuple(calls) == MOMENTS


def test_a_resumed_run_prepares_again_and_probes_no_more(calls, recipe_of, dataset, tmp_path):
    recipe = recipe_of("train.max_steps=4", "train.evaluate_every=1", "train.patience=0")

    def stop(step, loss):
        if step == 2:  # a checkpoint of step 1 is there
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        train(recipe, dataset, out=tmp_path / "run", on_validation=stop)
    calls.clear()
    train(recipe, dataset, resume=tmp_path / "run")

    assert calls == ["extend_model", "prepare", "before_first_step", "before_save"]


def test_an_objective_without_stages_gets_the_module_as_it_was_built():
    assert sft(Sft()).stages == ()


def test_the_trainer_imports_no_method_by_name():
    tree = ast.parse(Path(causal_lm.__file__).read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    for room in ("distillation", "rlhf", "adapters.quantization_aware", "losses"):
        assert not [name for name in modules if name.startswith(f"burnish.train.{room}")]
