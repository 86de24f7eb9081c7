"""The page that teaches the training loop does what `burnish train` does, to the last bit."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from burnish.core.recipe.recipe import load_recipe
from burnish.train.run import train
from tests.fixtures.training import make_rows, weights

SCRIPT = Path(__file__).parents[2] / "examples" / "train_loop.py"


@pytest.fixture
def recipe_file(tiny, tmp_path):
    """26 rows, two of them conversations that go on from others, and 6 rows to validate."""
    rows = list(make_rows(32, system="Sort the request."))
    talks = [[*rows[n].messages, *rows[n + 1].messages[1:]] for n in (0, 5)]
    texts = [*talks, *(row.messages for row in rows)]
    for name, some in (("train", texts[:28]), ("validation", texts[28:])):
        lines = [{"messages": [turn.as_template() for turn in talk]} for talk in some]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    recipe = {
        "task": {"kind": "generation"},
        "model": {"name": tiny.name},
        "data": {
            "train": "train.jsonl",
            "validation": "validation.jsonl",
            "test_share": 0.0,
            "near_duplicate": 1.0,
        },
        "train": {
            "batch_size": 4, "epochs": 2.5, "threads": 1, "micro_batch_tokens": 128,
            "learning_rate": 5e-3, "evaluate_every": 5, "weight_decay": 0.01,
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "recipe.yaml"


def run_script(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.parametrize(
    "changes",
    [
        ["model.dtype=float32"],
        ["model.dtype=bfloat16", "train.schedule=linear"],
        ["model.dtype=bfloat16", "train.method.dropout=0.2", "train.seed=3"],
        ["train.method={kind: lora, rank: 4, rslora: true, targets: [q_proj, v_proj]}"],
        ["train.learning_rate=0.2", "train.patience=1", "train.evaluate_every=2"],
        ["train.max_steps=4", "train.evaluate_every=0", "train.gradient_checkpointing=true"],
    ],
    ids=lambda changes: " ".join(changes),
)
def test_it_ends_in_the_weights_of_burnish_train(recipe_file, monkeypatch, tmp_path, changes):
    train(load_recipe(recipe_file, changes), out=tmp_path / "run")

    run_script(monkeypatch, recipe_file, tmp_path / "adapter", *changes)

    adapter = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert adapter == weights(tmp_path / "run")


def test_it_ends_in_them_without_validation_rows_too(recipe_file, monkeypatch, tmp_path):
    changes = ["data.validation=[]", "data.validation_share=0", "train.max_steps=5"]
    train(load_recipe(recipe_file, changes), out=tmp_path / "run")

    run_script(monkeypatch, recipe_file, tmp_path / "adapter", *changes)

    adapter = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert adapter == weights(tmp_path / "run")


@pytest.mark.parametrize(
    "change", ["train.method=full", "train.objective=dpo", "train.optimizer=adamw_8bit"]
)
def test_it_refuses_what_it_does_not_do(recipe_file, monkeypatch, tmp_path, change):
    with pytest.raises(SystemExit, match="this page has"):
        run_script(monkeypatch, recipe_file, tmp_path / "adapter", change)

    assert not (tmp_path / "adapter").exists()


def test_it_is_one_page():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 200
