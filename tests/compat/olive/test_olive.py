"""Olive's documented command lines, each run for real on a tiny model."""

import json
import shlex
import shutil

import pytest
import yaml

from burnish.compat.olive.commands import COMMANDS, run_command
from burnish.compat.olive.flags import BadFlag
from burnish.core.errors import AlreadyThere, BadData, BadRecipe
from burnish.models.local_models import find_model, read_manifest, write_manifest

LLAMA = (
    "<|start_header_id|>user<|end_header_id|>\\n{phrase}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\\n{tone}"
)
#: The documents' lines, word for word; `\` and line breaks are joined.
FINETUNE = (
    "olive finetune --model_name_or_path meta-llama/Llama-3.2-1B-Instruct --trust_remote_code "
    "--output_path models/llama/ft --data_name xxyyzzz/phrase_classification "
    f'--text_template "{LLAMA}" --method lora --max_steps 100 --log_level 1'
)
AUTO_OPT = (
    "olive auto-opt --model_name_or_path models/llama/ft/model "
    "--adapter_path models/llama/ft/adapter --device cpu --provider CPUExecutionProvider "
    "--use_ort_genai --output_path models/llama/onnx --log_level 1"
)
QLORA = (
    "olive finetune --method qlora --model_name_or_path meta-llama/Meta-Llama-3-8B "
    '--data_name nampdn-ai/tiny-codes --train_split "train[:4096]" --eval_split '
    '"train[4096:4224]" --text_template "### Language: {programming_language} \\n### Question: '
    '{prompt} \\n### Answer: {response}" --per_device_train_batch_size 16 '
    "--per_device_eval_batch_size 16 --max_steps 150 --logging_steps 50 "
    "--output_path adapters/tiny-codes"
)
CLASSIFIER = (
    'olive finetune --method lora --task_name "classification" --output_path adapters/classifier'
)
GENERATOR = 'olive finetune --method lora --task_name "generation" --output_path adapters/generator'
SEVERAL = (
    "olive generate-adapter --base_model_path models/base "
    "--adapter_paths adapters/classifier,adapters/generator --output_path models/multi-adapter"
)
WATCHED = (
    "olive finetune --logging_steps 10 --eval_steps 50 --save_steps 100 --logging_dir ./logs "
    "--report_to tensorboard"
)
FRUGAL = (
    "olive finetune --method qlora --gradient_checkpointing true --per_device_train_batch_size 1 "
    "--gradient_accumulation_steps 16"
)
BUILDER = (
    "olive auto-opt --model_name_or_path meta-llama/Llama-3.2-1B-Instruct --device cpu "
    "--provider CPUExecutionProvider --use_model_builder --precision int4 "
    "--output_path models/n/onnx --log_level 1"
)
RUN_YAML = "olive run --config olive-config.yaml --setup"
RUN_JSON = "olive run --config finetuned_conversion_config.json"
#: Only these are shortened: a hundred steps teach a tiny model nothing more.
SHORTER = {"--max_steps": "2", "--train_split": "train[:24]", "--eval_split": "train[24:]"}


@pytest.fixture
def place(tiny, tmp_path, monkeypatch):
    """A folder with the documents' data sets and models under their own names."""
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "pulled"
    for name in ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Meta-Llama-3-8B"):
        folder = models / name.replace("/", "--")
        shutil.copytree(tiny.path, folder)
        facts = read_manifest(folder)
        write_manifest(folder, {**facts, "name": name})
    monkeypatch.setenv("BURNISH_MODELS", str(models))
    rows = {
        "xxyyzzz/phrase_classification": [
            {"phrase": f"my lamp is {n} days late", "tone": "sad" if n % 2 else "glad"}
            for n in range(30)
        ],
        "nampdn-ai/tiny-codes": [
            {"programming_language": "C", "prompt": f"add {n}", "response": f"x + {n}"}
            for n in range(30)
        ],
    }
    for name, content in rows.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


def run(line):
    """A documented line, with fewer steps and rows."""
    words = shlex.split(line)[1:]
    for flag, value in SHORTER.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        elif flag == "--max_steps" and words[0] == "finetune":
            words += [flag, value]
    return run_command(words)


def test_the_basic_example_trains_and_leaves_an_onnx_folder(place):
    done = run(FINETUNE)

    assert (place / "models/llama/ft/adapter/adapter_model.safetensors").exists()
    base = find_model("meta-llama/Llama-3.2-1B-Instruct")
    assert find_model(str(place / "models/llama/ft/model")).sha256 == base.sha256
    assert any("--log_level" in note for note in done.notes)
    assert any("--trust_remote_code" in note for note in done.notes)

    made = run(AUTO_OPT)

    folder = place / "models/llama/onnx"
    for name in ("model.onnx", "genai_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).exists()
    assert made.facts["precision"] == "fp32"
    assert any("--use_ort_genai" in note for note in made.notes)
    assert any("fp32 unless told otherwise" in note for note in made.notes)


def test_what_is_trained_is_the_template_with_real_line_breaks(place):
    run(FINETUNE)

    file = next((place / ".burnish" / "olive").glob("*.jsonl"))
    first = json.loads(file.read_text().splitlines()[0])["text"]
    assert "<|end_header_id|>\nmy lamp is 0 days late<|eot_id|>" in first
    assert first.endswith("\nglad")


def test_qlora_takes_slices_as_splits_and_real_batches(place):
    from burnish.core.runs import find_run

    done = run(QLORA)

    run_made = find_run(done.facts["run"])
    recipe = run_made.recipe
    assert recipe.train.method.kind == "qlora" and recipe.train.batch_size == 16
    assert (recipe.train.method.rank, recipe.train.method.alpha) == (64, 16)
    assert len(recipe.data.train[0].read_text().splitlines()) == 24
    assert len(recipe.data.validation[0].read_text().splitlines()) == 6
    config = json.loads((place / "adapters/tiny-codes/adapter/adapter_config.json").read_text())
    assert config["r"] == 64


def test_adapters_of_one_base_become_files_that_switch(place):
    run(FINETUNE)
    shutil.copytree(place / "models/llama/ft/model", place / "models/base")
    for line in (CLASSIFIER, GENERATOR):
        done = run(line)
        assert any("Taken from the last" in note for note in done.notes)

    several = run(SEVERAL)

    folder = place / "models/multi-adapter"
    assert several.facts["adapters"] == {
        "classifier": "classifier.gguf",
        "generator": "generator.gguf",
    }
    assert all((folder / name).exists() for name in ("base-q8_0.gguf", "classifier.gguf"))


def test_task_name_asks_for_the_answer_alone(place):
    run(FINETUNE)
    done = run(CLASSIFIER)

    from burnish.core.runs import find_run

    recipe = find_run(done.facts["run"]).recipe
    row = json.loads(recipe.data.train[0].read_text().splitlines()[1])
    assert recipe.task.kind == "classification"
    assert row["completion"] == "sad" and "1 days late" in row["prompt"]


@pytest.mark.parametrize("line", [WATCHED, FRUGAL])
def test_lines_without_model_and_data_take_the_last_ones(place, line):
    with pytest.raises(BadFlag, match="no earlier one"):
        run(line)
    run(FINETUNE)

    done = run(line)

    assert (place / "finetuned-adapter/adapter/adapter_config.json").exists()
    assert done.facts["steps"] == 2


def test_the_model_builders_line_makes_int4(place):
    run(BUILDER)

    assert json.loads((place / "models/n/onnx/genai_config.json").read_text())["model"]


def test_an_adapter_is_taken_out_of_what_finetune_left(place):
    run(FINETUNE)

    run("olive extract-adapters -m models/llama/ft -f lora -o models/llama/taken")

    names = ("adapter_config.json", "adapter_model.safetensors")
    for name in names:
        left, taken = (place / "models/llama" / one / name for one in ("ft/adapter", "taken"))
        assert left.read_bytes() == taken.read_bytes()


def test_quantize_rounds_to_nearest(place):
    base = "meta-llama/Llama-3.2-1B-Instruct"
    done = run(f"olive quantize -m {base} --algorithm rtn --precision int4 -o models/q")

    assert done.facts["precision"] == "int4"
    assert (place / "models/q/model.onnx").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_adapters_weights_are_the_same_in_every_file(place, dtype):
    import numpy as np
    import onnxruntime
    import torch
    from safetensors.numpy import load_file
    from safetensors.torch import load_file as load_torch_file

    run(FINETUNE)
    read = {
        "onnx_adapter": lambda file: {
            name: one.numpy()
            for name, one in onnxruntime.AdapterFormat.read_adapter(str(file))
            .get_parameters()
            .items()
        },
        "pt": lambda file: {name: one.numpy() for name, one in torch.load(file).items()},
        "numpy": lambda file: dict(np.load(file)),
        "safetensors": load_file,
    }
    adapter = place / "models/llama/ft/adapter/adapter_model.safetensors"
    peft = {name: one.float().numpy() for name, one in load_torch_file(adapter).items()}
    layer = "model.layers.0.{}.q_proj.lora_{}"

    for form, reader in read.items():
        done = run(
            f"olive convert-adapters -a models/llama/ft/adapter -o {form} "
            f"--adapter_format {form} --dtype {dtype}"
        )
        weights = reader(place / form / done.facts["file"])
        assert len(weights) == len(peft) == done.facts["weights"]
        for side, scaling in (("A", 1.0), ("B", 16 / 64)):
            ours = weights[layer.format("attn", side) + ".MatMul.weight"]
            theirs = peft["base_model.model." + layer.format("self_attn", side) + ".weight"]
            assert ours.dtype == dtype
            assert np.allclose(ours, theirs.T * scaling, atol=1e-3)


def test_an_adapter_of_another_base_is_refused(place):
    run(FINETUNE)

    with pytest.raises(BadData, match="another model"):
        run("olive auto-opt -m meta-llama/Meta-Llama-3-8B -a models/llama/ft/adapter -o out")
    assert not (place / "out").exists()


def test_what_is_there_already_is_never_written_over(place):
    run(FINETUNE)
    before = (place / "models/llama/ft/adapter/adapter_model.safetensors").read_bytes()

    with pytest.raises(AlreadyThere):
        run(FINETUNE)
    assert (place / "models/llama/ft/adapter/adapter_model.safetensors").read_bytes() == before


def test_a_workflow_of_two_passes_gives_the_adapter_on(place):
    config = conversion(precision="int4")
    data = {"data_name": "nampdn-ai/tiny-codes", "split": "train"}
    template = {"text_template": "{prompt} {response}"}
    config["data_configs"] = [
        {"name": "d", "load_dataset_config": data, "pre_process_data_config": template}
    ]
    tune = {"type": "LoRA", "train_data_config": "d", "training_args": {"max_steps": 1}}
    config["passes"] = {"tune": tune, **config["passes"]}
    (place / "two.json").write_text(json.dumps(config))

    done = run("olive run --config two.json")

    assert list(done.facts["passes"]) == ["tune", "builder"]
    facts = json.loads((place / "models/converted/builder/artifact.json").read_text())
    assert facts["run"] == done.facts["passes"]["tune"]["run"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"passes": {"p": {"type": "SparseGPT"}}}, "SparseGPT"),
        ({"passes": {"p": {"type": "ModelBuilder", "colour": "red"}}}, "colour"),
        ({"search_strategy": {"type": "random"}}, "no `search_space`"),
        ({"search_space": {"lora_r": [8, 16]}}, "one pass that trains"),
        ({"engine": {"search_strategy": {}}}, "stands in `engine`"),
        ({"auto_optimizer_config": {}}, "isn't known"),
        ({"input_model": {}}, "no model"),
    ],
)
def test_a_configuration_that_cant_be_honoured_is_refused(place, change, says):
    (place / "c.json").write_text(json.dumps({**conversion(precision="int4"), **change}))

    with pytest.raises(BadRecipe) as refused:
        run("olive run --config c.json")
    assert says in str(refused.value)
    assert not (place / "models/converted").exists()


def test_the_documents_yaml_trains(place):
    (place / "data.json").write_text(
        json.dumps([{"input": f"ask {n}", "output": f"say {n}"} for n in range(20)])
    )
    config = {
        "model": {
            "type": "PyTorchModel",
            "config": {
                "model_path": "meta-llama/Llama-3.2-1B-Instruct", "task": "text-generation",
            },
        },
        "data_configs": [
            {
                "name": "train", "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_files": "data.json", "split": "train"},
                "pre_process_data_config": {"text_template": "User: {input}\nAssistant: {output}"},
            }
        ],
        "passes": {
            "lora": {
                "type": "LoRA",
                "config": {
                    "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"],
                    "modules_to_save": ["norm", "lm_head"], "training_args": {"max_steps": 2},
                },
            }
        },
        "output_dir": "tuned",
    }  # fmt: skip
    (place / "olive-config.yaml").write_text(yaml.safe_dump(config))

    done = run(RUN_YAML)

    made = json.loads((place / "tuned/adapter/adapter_config.json").read_text())
    assert made["r"] == 16 and set(made["target_modules"]) == {"q_proj", "v_proj"}
    assert any("--setup" in note for note in done.notes)
    assert any("--modules_to_save" in note for note in done.notes)


SEARCH = {
    "search_strategy": {"type": "random", "num_trials": 2},
    "search_space": {
        "learning_rate": {"type": "float", "low": "1e-6", "high": "1e-3", "log": True},
        "lora_r": {"type": "int", "low": 8, "high": 64},
    },
}


def test_the_documents_search_takes_the_last_model_and_leaves_the_best_of_its_trials(place):
    run(FINETUNE)
    (place / "search.yaml").write_text(yaml.safe_dump(SEARCH))

    done = run("olive run --config search.yaml -o tuned")

    tuned = done.facts["passes"]["lora"]
    losses = {json.dumps(trial["settings"]): trial["loss"] for trial in tuned["trials"]}
    assert len(losses) == 2
    assert losses[json.dumps(tuned["best"])] == min(losses.values())
    assert all(8 <= trial["settings"]["train.method.rank"] <= 64 for trial in tuned["trials"])
    adapter = json.loads((place / "tuned/adapter/adapter_config.json").read_text())
    assert adapter["r"] == tuned["best"]["train.method.rank"]
    assert any("judged by 10%" in note for note in done.notes)
    assert any("The best of 2 trials" in note for note in done.notes)


def test_a_workflow_searches_in_its_pass_and_gives_the_best_on(place):
    run(FINETUNE)
    data = {"data_name": "nampdn-ai/tiny-codes", "split": "train[:24]"}
    held = {"data_name": "nampdn-ai/tiny-codes", "split": "train[24:]"}
    template = {"text_template": "{prompt} {response}"}
    config = {**conversion(precision="fp32"), **SEARCH}
    config["data_configs"] = [
        {"name": "d", "load_dataset_config": data, "pre_process_data_config": template},
        {"name": "e", "load_dataset_config": held},
    ]
    tune = {
        "type": "LoRA", "train_data_config": "d", "eval_data_config": "e",
        "training_args": {"max_steps": 1},
    }  # fmt: skip
    config["passes"] = {"tune": tune, **config["passes"]}
    (place / "searched.json").write_text(json.dumps(config))

    done = run("olive run --config searched.json")

    tuned = done.facts["passes"]["tune"]
    adapter = json.loads((place / "models/converted/tune/adapter/adapter_config.json").read_text())
    assert len(tuned["trials"]) == 2
    assert adapter["r"] == tuned["best"]["train.method.rank"]
    assert (place / "models/converted/builder/model.onnx").exists()
    assert not any("judged by" in note for note in done.notes)


def conversion(**builder):
    return {
        "input_model": {
            "type": "HfModel", "model_path": "meta-llama/Llama-3.2-1B-Instruct",
            "task": "text-generation",
        },
        "systems": {
            "local_system": {
                "type": "LocalSystem",
                "accelerators": [{"execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "passes": {"builder": {"type": "ModelBuilder", "config": builder}},
        "host": "local_system", "target": "local_system", "cache_dir": "cache",
        "output_dir": "models/converted",
    }  # fmt: skip


def test_the_documents_json_converts(place):
    config = conversion(
        precision="int4", quantization_config={"block_size": 128, "is_symmetric": False}
    )
    (place / "finetuned_conversion_config.json").write_text(json.dumps(config))

    run(RUN_JSON)

    assert (place / "models/converted/model.onnx").exists()
    facts = json.loads((place / "models/converted/artifact.json").read_text())
    assert facts["export"]["quant"] == "uint4_128"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("olive auto-opt -m x --device npu", "CPU"),
        ("olive auto-opt -m x --provider QNNExecutionProvider", "CPU"),
        ("olive optimize -m x --precision uint8", "symmetric"),
        ("olive optimize -m x --block_size 256", "share a scale"),
        ("olive optimize -m tiny --precision int8 --block_size 64", "blocks of 32"),
        ("olive quantize -m x --algorithm awq", "rounds to nearest"),
        ("olive finetune --fp16 true", "overflow"),
        ("olive finetune --lora_rank 3", "Did you mean --lora_r"),
        ("olive finetune --max_steps many", "--max_steps is `many`"),
        ("olive finetune --max_steps", "has no value"),
        ("olive finetune --aml_compute big", "this machine"),
        ("olive convert-adapters -a x --quantize_int4", "floating point"),
        ("olive convert-adapters", "--adapter_path is missing"),
        ("olive convert-adapters -a x --adapter_format gguf", "onnx_adapter"),
        ("olive generate-cost-model -m x", "--for-this-machine"),
        ("olive capture-onnx-graph -m x", "auto-opt"),
        ("olive dance", "finetune"),
    ],
)
def test_what_cant_be_honoured_is_refused_by_name(place, line, says):
    with pytest.raises(BadFlag) as refused:
        run_command(shlex.split(line)[1:])

    assert says in str(refused.value)
    assert not (place / "optimized-model").exists()


def test_olives_own_limit_of_rows_is_said(place):
    file = place / "xxyyzzz/phrase_classification/train.jsonl"
    row = {"phrase": "late", "tone": "sad"}
    file.write_text("".join(json.dumps({**row, "phrase": f"late {n}"}) + "\n" for n in range(300)))

    done = run(FINETUNE)

    assert any("first 256 of 300 rows" in note and "default" in note for note in done.notes)


def test_every_flag_is_read_ignored_with_a_reason_or_refused_with_one():
    for _, flags in COMMANDS.values():
        for name, flag in flags.items():
            assert not (flag.ignored and flag.refused), name


def test_the_words_of_the_shell_reach_it_whole(place):
    from typer.testing import CliRunner

    from burnish.cli.main import app

    words = ["finetune", "-m", "meta-llama/Llama-3.2-1B-Instruct", "-d", "nampdn-ai/tiny-codes"]
    words += ["--text_template={prompt} {response}", "--max_steps", "1", "-o", "out"]
    done = CliRunner().invoke(app, ["-q", "olive", *words, "--json"])

    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["folder"] == str(place / "out")
    assert (place / "out/adapter/adapter_model.safetensors").exists()
