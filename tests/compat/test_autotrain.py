"""AutoTrain's file becomes a recipe: every key is meant, named in a note, or refused by name."""

import pytest
import yaml
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.compat.autotrain import KEYS, TRAINERS, read_autotrain
from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe

#: As its examples are (configs/llm_finetuning/smollm2.yml, configs/text_classification).
CHAT = {
    "task": "llm-sft",
    "base_model": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "project_name": "autotrain-smollm2-finetune",
    "log": "tensorboard",
    "backend": "local",
    "data": {
        "path": "data/",
        "train_split": "train",
        "valid_split": None,
        "chat_template": "tokenizer",
        "column_mapping": {"text_column": "messages"},
    },
    "params": {
        "block_size": 2048, "model_max_length": 4096, "epochs": 2, "batch_size": 1, "lr": 1e-5,
        "peft": True, "quantization": "int4", "target_modules": "all-linear", "padding": "right",
        "optimizer": "paged_adamw_8bit", "scheduler": "linear", "gradient_accumulation": 8,
        "mixed_precision": "bf16", "merge_adapter": True,
    },
    "hub": {"username": "${HF_USERNAME}", "token": "${HF_TOKEN}", "push_to_hub": True},
}  # fmt: skip
LABELS = {
    "task": "text_classification",
    "base_model": "google-bert/bert-base-uncased",
    "project_name": "autotrain-bert-imdb-finetuned",
    "log": "none",
    "backend": "local",
    "data": {
        "path": "data",
        "train_split": "train",
        "valid_split": "valid",
        "column_mapping": {"text_column": "review", "target_column": "stars"},
    },
    "params": {"max_seq_length": 512, "epochs": 3, "batch_size": 4, "mixed_precision": "fp16"},
}


@pytest.fixture
def meant(tmp_path):
    """What a configuration comes to; its splits are there."""
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "valid.csv"):
        (tmp_path / "data" / name).write_text("")

    def read(values, **changes):
        file = tmp_path / "autotrain.yml"
        file.write_text(yaml.safe_dump({**values, **changes}))
        return read_autotrain(file)

    return read


def recipe_of(found):
    return make_recipe({}, found.changes)


def test_a_chat_example_becomes_a_recipe(meant, tmp_path):
    found = meant(CHAT)

    recipe = recipe_of(found)
    method = recipe.train.method
    assert recipe.model.name == "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    assert (recipe.model.dtype, recipe.train.tracker) == ("bfloat16", "tensorboard")
    assert recipe.data.train == (tmp_path / "data" / "train.jsonl",)
    assert (recipe.train.batch_size, recipe.train.epochs) == (8, 2)
    assert (recipe.train.learning_rate, recipe.train.schedule) == (1e-5, "linear")
    assert (method.kind, method.rank, method.alpha, method.dropout) == ("qlora", 16, 32, 0.05)
    assert recipe.train.max_length == 2048 and recipe.data.columns.text is None
    assert (recipe.train.warmup_ratio, recipe.train.seed) == (0.1, 42), "AutoTrain's own"
    notes = "\n".join(found.notes)
    assert "hub.token changes nothing here: nothing is uploaded" in notes
    assert "merge_adapter" in notes and "moments have all their bits" in notes
    assert "HF_TOKEN" not in notes


def test_labels_become_a_classification_with_its_columns(meant, tmp_path):
    found = meant(LABELS)

    recipe = recipe_of(found)
    columns = recipe.data.columns
    assert (recipe.task.kind, recipe.train.objective.kind) == ("classification", "classify")
    assert recipe.train.method.kind == "full" and recipe.train.max_length == 512
    assert (columns.prompt, columns.label) == ("review", "stars")
    assert recipe.data.validation == (tmp_path / "data" / "valid.csv",)
    assert (recipe.train.learning_rate, recipe.train.patience) == (5e-5, 5)
    assert "fp16 overflows" in "\n".join(found.notes)


@pytest.mark.parametrize("task", TRAINERS)
def test_every_trainer_gives_a_valid_recipe(meant, task):
    values = {**CHAT, "task": task, "data": {"path": "data", "train_split": "train"}, "params": {}}

    recipe = recipe_of(meant(values))

    assert recipe.train.objective.kind == TRAINERS[task].objective
    assert recipe.train.method.kind == "full"


@pytest.mark.parametrize("task", ["sentence-transformers:triplet", "st:triplet"])
def test_triplets_are_learnt_as_triplets_by_either_name(meant, task):
    values = {**CHAT, "task": task, "data": {"path": "data", "train_split": "train"}, "params": {}}

    assert recipe_of(meant(values)).train.objective.loss == "triplet"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"task": "image-classification"}, "isn't one that burnish trains"),
        ({"backend": "spaces-a10g-large"}, 'backend: "spaces-a10g-large" can\'t be honoured'),
        ({"params": {"lerning_rate": 1}}, "lerning_rate isn't known"),
        ({"params": {"optimizer": "adafactor"}}, "trains with AdamW"),
        ({"params": {"peft": True, "quantization": "int8"}}, "frozen weights have 4 bits or all"),
        ({"data": {"path": "data", "train_split": "rows"}}, r"no rows.csv or .* in .*data"),
        (
            {"data": {**CHAT["data"], "column_mapping": {"text_column": "talk"}}},
            r"holds what .* from messages.*\n.*Rename",
        ),
    ],
)
def test_what_cannot_be_honoured_is_named(meant, change, why):
    with pytest.raises(BadRecipe, match=why):
        meant(CHAT, **change)


def test_the_command_prints_it_and_the_notes_as_comments(meant, tmp_path):
    meant(LABELS)

    done = CliRunner().invoke(
        app,
        ["recipe", "--from-autotrain", str(tmp_path / "autotrain.yml"), "--set", "train.seed=7"],
    )

    assert done.exit_code == 0, done.output
    assert "# fp16 overflows" in done.output
    assert yaml.safe_load(done.stdout)["train"]["seed"] == 7


@pytest.mark.parametrize("field", sorted({key.field for key in KEYS.values() if key.field}))
def test_a_field_that_a_key_names_is_the_recipes(field):
    section = make_recipe({}).model_dump()
    for name in field.split("."):
        section = section[name]
