"""A course's file of `search_strategy` and `search_space` is a search here, or refused by name."""

import json

import pytest
import yaml

from burnish.compat.olive_search_space import recipe_changes, to_search_section
from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.recipe.search import Range
from burnish.train.search.run import search

#: As the course writes it; YAML reads 1e-6 as text.
DOCUMENTED = """\
search_strategy:
  type: "random"
  num_trials: 20

search_space:
  learning_rate:
    type: "float"
    low: 1e-6
    high: 1e-3
    log: true

  lora_r:
    type: "int"
    low: 8
    high: 64

  batch_size:
    type: "choice"
    values: [8, 16, 32]
"""


def test_every_documented_field_reaches_the_search(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(DOCUMENTED)

    chosen = make_recipe({}, recipe_changes(file)).search

    assert (chosen.sampler, chosen.trials) == ("random", 20)
    assert chosen.space == {
        "train.learning_rate": Range(low=1e-6, high=1e-3, log=True),
        "train.method.rank": Range(low=8, high=64),
        "train.batch_size": (8, 16, 32),
    }
    assert chosen.space["train.method.rank"].is_integer
    assert not chosen.space["train.learning_rate"].is_integer


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"search_strategy": {"type": "grid"}}, "It has: random, tpe"),
        ({"search_strategy": {"type": "random", "max_trials": 3}}, "max_trials"),
        ({"search_strategy": {"num_trials": "many"}}, "many"),
        ({"search_space": {}}, "no `search_space`"),
        ({"search_space": {"lora_rank": [8]}}, "Did you mean `lora_r`"),
        ({"search_space": {"lora_r": {"type": "int", "low": 8, "high": "big"}}}, "big"),
        ({"search_space": {"lora_r": {"type": "int", "low": 8.5, "high": 9}}}, "whole number"),
        ({"search_space": {"lora_r": {"type": "int", "low": 8}}}, "lora_r.high"),
        ({"search_space": {"lora_r": {"type": "int", "low": 8, "high": 9, "step": 1}}}, "step"),
        ({"search_space": {"lora_r": {"type": "normal"}}}, "type: choice"),
        ({"search_space": {"batch_size": {"type": "choice", "values": []}}}, "no values"),
        ({"search_space": {"r": [8], "lora_r": [8]}}, "twice"),
        ({"pruner": "median"}, "pruner"),
    ],
)
def test_what_cant_be_honoured_is_refused_by_name(change, says):
    with pytest.raises(BadRecipe) as refused:
        to_search_section({**yaml.safe_load(DOCUMENTED), **change})

    assert says in str(refused.value)


@pytest.mark.parametrize("room", [{"low": 1e-3, "high": 1e-6}, {"low": 0, "high": 1, "log": True}])
def test_a_range_that_holds_nothing_is_refused_before_the_first_trial(room, recipe_of, tmp_path):
    space = {"learning_rate": {"type": "float", **room}}
    changes = [f"search.space={json.dumps(to_search_section({'search_space': space})['space'])}"]

    with pytest.raises(BadRecipe, match="goes from"):
        search(recipe_of(*changes), out=tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_train_takes_the_file_and_keeps_the_best_of_its_trials(tiny, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from burnish.cli.main import app

    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"lamp {n}", "completion": "red" if n % 2 else "green"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "search.yaml").write_text(DOCUMENTED.replace("20", "2"))

    words = ["train", "--train", "rows.jsonl", "--model", str(tiny.path), "--space", "search.yaml"]
    words += ["--set", "train.max_steps=2", "--set", "search.seeds=1", "--out", "found", "--json"]
    done = CliRunner().invoke(app, ["-q", *words])

    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    losses = {json.dumps(trial["settings"]): trial["loss"] for trial in report["trials"]}
    assert len(losses) == 2
    assert losses[json.dumps(report["best"])] == min(losses.values())
    adapter = json.loads((tmp_path / "found/artifact/adapter_config.json").read_text())
    assert adapter["r"] == report["best"]["train.method.rank"]
