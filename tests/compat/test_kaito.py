"""KAITO's Workspace becomes a recipe: every key is meant, named in a note, or refused by name."""

import pytest
import yaml

from burnish.compat.kaito import KEYS, read_kaito
from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe

#: As its examples are (examples/fine-tuning).
WORKSPACE = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "workspace-tuning-phi-3"},
    "resource": {
        "instanceType": "Standard_NC24ads_A100_v4",
        "labelSelector": {"matchLabels": {"app": "tuning-phi-3"}},
    },
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/rows.parquet"]},
        "output": {"image": "registry.example.com/adapter:0.0.1", "imagePushSecret": "secret"},
    },
}
CONFIG = {
    "ModelConfig": {"torch_dtype": "bfloat16", "local_files_only": True, "device_map": "auto"},
    "QuantizationConfig": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_use_double_quant": False,
    },
    "LoraConfig": {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj"]},
    "TrainingArguments": {
        "output_dir": "/mnt/results",
        "save_strategy": "epoch",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "ddp_find_unused_parameters": False,
    },
    "DataCollator": {"mlm": True},
    "DatasetConfig": {"shuffle_dataset": True, "train_test_split": 0.9},
}


def tuning(**changes):
    return {**WORKSPACE, "tuning": {**WORKSPACE["tuning"], **changes}}


def config_map(config=CONFIG, name="own"):
    text = yaml.safe_dump({"training_config": config})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"training_config.yaml": text},
    }


@pytest.fixture
def meant(tmp_path):
    """What the documents of a file come to."""

    def read(*documents):
        file = tmp_path / "workspace.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        return read_kaito(file)

    return read


def test_an_example_becomes_a_recipe_with_kaitos_defaults(meant):
    found = meant(WORKSPACE)

    recipe = make_recipe({}, found.changes)
    method, train = recipe.train.method, recipe.train
    assert recipe.model.name == "microsoft/Phi-3-mini-128k-instruct"
    assert (method.kind, method.rank, method.alpha, method.double_quant) == ("qlora", 8, 8, True)
    assert (train.learning_rate, train.epochs, train.batch_size) == (5e-5, 3, 1)
    assert (train.schedule, train.warmup_ratio, train.seed) == ("linear", 0.0, 42)
    notes = "\n".join(found.notes)
    assert "tuning.input isn't fetched" in notes and "no cluster" in notes
    assert "tuning.output.image changes nothing here" in notes


def test_kaitos_own_config_map_is_what_it_takes_anyway(meant):
    assert meant(tuning(config="qlora-params-template")).changes == meant(WORKSPACE).changes


def test_its_config_map_and_a_folder_of_this_machine_are_taken(meant, tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "rows.jsonl").write_text("")
    here = {"volumeSource": {"hostPath": {"path": str(rows)}}}

    recipe = make_recipe({}, meant(tuning(config="own", input=here), config_map()).changes)

    method = recipe.train.method
    assert (method.rank, method.alpha, method.dropout) == (4, 16, 0.1)
    assert method.targets == ("q_proj",) and not method.double_quant
    assert recipe.train.batch_size == 6 and recipe.data.validation_share == 0.1
    assert recipe.data.train == (rows / "rows.jsonl",)


@pytest.mark.parametrize(
    ("documents", "why"),
    [
        ([config_map()], "has 0 Workspaces"),
        ([{**WORKSPACE, "tuning": None}], "has no `tuning`"),
        (
            [{"kind": "Workspace", "inference": {"preset": {"name": "phi-4"}}}],
            r"serves a model.*\n.*burnish serve microsoft/phi-4",
        ),
        ([tuning(config="own")], "ConfigMap own, which isn't in the file"),
        ([tuning(config="own"), {**config_map(), "data": {}}], "has no training_config"),
        ([tuning(method="dora")], "dora isn't one of KAITO's"),
        ([tuning(inputs={"urls": []})], "tuning.inputs.urls isn't known; tuning.input is"),
        (
            [tuning(config="own"), config_map({"LoraConfig": {"bias": "all"}})],
            'LoraConfig.bias: "all" can\'t be honoured: biases stay',
        ),
        (
            [tuning(config="own"), config_map({"QuantizationConfig": {"load_in_4bit": False}})],
            "load_in_4bit is false",
        ),
        (
            [tuning(config="own"), config_map({"TrainingArguments": {"lerning_rate": 1}})],
            "TrainingArguments.learning_rate is",
        ),
    ],
)
def test_what_cannot_be_honoured_is_named(meant, documents, why):
    with pytest.raises(BadRecipe, match=why):
        meant(*documents)


def test_an_empty_folder_is_refused(meant, tmp_path):
    here = {"volumeSource": {"hostPath": {"path": str(tmp_path / "none")}}}

    with pytest.raises(BadRecipe, match="no rows in"):
        meant(tuning(input=here))


@pytest.mark.parametrize("field", sorted({key.field for key in KEYS.values() if key.field}))
def test_a_field_that_a_key_names_is_the_recipes(field):
    section = make_recipe({}).model_dump()
    for name in field.split("."):
        section = section[name]
