"""Recipe keys by their old names: read for one release, said once, never both at once."""

import pytest
import yaml

from burnish.core.errors import BadRecipe
from burnish.core.progress import LineReporter, set_reporter
from burnish.core.recipe import renamed_keys
from burnish.core.recipe.recipe import Recipe, load_recipe, make_recipe
from burnish.core.recipe.renamed_keys import RENAMED_KEYS, current_key
from burnish.core.runs import new_run

#: Old key → a value for it, and the kind of its method or objective.
EXAMPLES = {
    "distil": ({"agreement": 0.4}, None),
    "distill.thoughts": ("ask", None),
    "distill.pieces": (300, None),
    "distill.grow": (7, None),
    "distill.evolve": (8, None),
    "train.warmup_share": (0.2, None),
    "train.objective.answers": (5, "grpo"),
    "train.objective.validation_answers": (3, "grpo"),
    "train.objective.updates": (2, "grpo"),
    "train.objective.clip": (0.1, "grpo"),
    "train.objective.clip_high": (0.28, "grpo"),
    "train.method.ranks": ({"q_proj": 4}, "lora"),
    "train.method.start": ("earlier", "lora"),
    "train.method.on": ("below", "lora"),
    "train.method.tokens": (9, "prefix"),
}
OLD_FILE = """
train:
  warmup_share: 0.2
  objective: {kind: grpo, answers: 4, updates: 2, clip: 0.1, clip_high: 0.2}
  method: {kind: lora, ranks: {q_proj: 4}, start: earlier}
distil: {grow: 3, teacher: {model: big}}
search: {space: {train.warmup_share: [0.0, 0.1]}}
"""
NEW_FILE = """
train:
  warmup_ratio: 0.2
  objective:
    {kind: grpo, num_generations: 4, num_iterations: 2, epsilon: 0.1, epsilon_high: 0.2}
  method: {kind: lora, rank_pattern: {q_proj: 4}, init_from: earlier}
distill: {self_instruct: 3, teacher: {model: big}}
search: {space: {train.warmup_ratio: [0.0, 0.1]}}
"""


@pytest.fixture
def notes(capsys, monkeypatch):
    monkeypatch.setattr(renamed_keys, "_noted", set())
    set_reporter(LineReporter())
    yield lambda: capsys.readouterr().err.splitlines()
    set_reporter(None)


def nested(key, value, kind):
    section, *inner = key.split(".")
    if inner:
        value = nested(".".join(inner), value, kind)
        if kind and len(inner) == 1:
            value["kind"] = kind
    return {section: value}


def value_at(recipe: Recipe, key):
    place = recipe.model_dump(mode="json")
    for part in key.split("."):
        place = place[part]
    return place


def test_every_renamed_key_has_an_example():
    assert EXAMPLES.keys() == RENAMED_KEYS.keys()


@pytest.mark.parametrize("old", EXAMPLES)
def test_an_old_key_in_a_file_is_the_new_one(old, tmp_path):
    value, kind = EXAMPLES[old]
    file = tmp_path / "burnish.yaml"
    file.write_text(yaml.safe_dump(nested(old, value, kind)))

    found = value_at(load_recipe(file), current_key(old))

    assert found == value or found["agreement"] == value["agreement"]


@pytest.mark.parametrize("old", [key for key, (_, kind) in EXAMPLES.items() if key != "distil"])
def test_an_old_key_in_a_change_is_the_new_one(old):
    value, kind = EXAMPLES[old]
    section = old.rpartition(".")[0]
    changes = [f"{section}.kind={kind}"] if kind else []

    recipe = make_recipe({}, [*changes, f"{old}={yaml.safe_dump(value, default_flow_style=True)}"])

    assert value_at(recipe, current_key(old)) == value


def test_a_file_of_old_keys_means_what_a_file_of_new_ones_does(tmp_path):
    (tmp_path / "old.yaml").write_text(OLD_FILE)
    (tmp_path / "new.yaml").write_text(NEW_FILE)

    assert load_recipe(tmp_path / "old.yaml") == load_recipe(tmp_path / "new.yaml")


@pytest.mark.parametrize("spelt", ["distil", "{kind: distil, teacher: big}"])
def test_the_objective_by_its_old_name_is_distillation(spelt, tmp_path):
    (tmp_path / "old.yaml").write_text(f"train: {{objective: {spelt}}}")

    in_a_file = load_recipe(tmp_path / "old.yaml").train.objective
    in_a_change = make_recipe({}, [f"train.objective={spelt}"]).train.objective

    assert in_a_file.kind == in_a_change.kind == "distill"
    assert in_a_file == in_a_change


def test_a_change_of_a_key_inside_a_renamed_section_reaches_it():
    recipe = make_recipe({}, ["distil.teacher.model=big", "distil.grow=2"])

    assert (recipe.distill.teacher.model, recipe.distill.self_instruct) == ("big", 2)


def test_the_new_name_is_said_once(notes):
    for _ in range(2):
        make_recipe({"train": {"warmup_share": 0.1}})

    (line,) = notes()
    assert "`train.warmup_share` is now `train.warmup_ratio`" in line


def test_a_recipe_that_burnish_wrote_itself_is_read_without_a_note(notes, tmp_path):
    run = new_run("train", Recipe(), {}, tmp_path / "run")
    (run.path / "recipe.yaml").write_text(OLD_FILE)

    assert run.recipe.train.warmup_ratio == 0.2
    assert notes() == []


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("train: {warmup_share: 0.1, warmup_ratio: 0.1}", ()),
        ("train: {warmup_ratio: 0.1, warmup_share: 0.1}", ()),
        ("distil: {grow: 1}\ndistill: {self_instruct: 1}", ()),
        ("", ("train.warmup_share=0.1", "train.warmup_ratio=0.1")),
        ("", ("train.warmup_ratio=0.1", "train.warmup_share=0.1")),
    ],
)
def test_both_names_at_once_are_refused(text, changes, tmp_path):
    (tmp_path / "both.yaml").write_text(text)

    with pytest.raises(BadRecipe, match=r"is the old name of .*and both are given"):
        load_recipe(tmp_path / "both.yaml", changes)


def test_a_change_by_an_old_name_overrides_the_file_that_has_the_new_one(tmp_path):
    (tmp_path / "new.yaml").write_text("train: {warmup_ratio: 0.1}")

    assert load_recipe(tmp_path / "new.yaml", ["train.warmup_share=0.3"]).train.warmup_ratio == 0.3


def test_a_wrong_value_of_an_old_key_names_its_line(tmp_path):
    (tmp_path / "old.yaml").write_text("train:\n  warmup_share: 7\n")

    with pytest.raises(BadRecipe, match=r"line 2: `train.warmup_ratio` is 7"):
        load_recipe(tmp_path / "old.yaml")
