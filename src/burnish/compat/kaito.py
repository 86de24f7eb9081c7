"""KAITO's Workspace file, read strictly: what it says of tuning becomes a recipe, changes nothing
here and says so, or is refused by name. What it leaves out is as KAITO has it. No cluster is asked.

Meanings and defaults are those of KAITO 0.12 (website/docs/tuning.md, its `lora-params` and
`qlora-params`) and of the TrainingArguments that it passes on.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from burnish.compat.translate import (
    ADAMW,
    SCHEDULES,
    SUFFIXES,
    ImportedConfig,
    KeyRule,
    as_changes,
    leaves,
    precision_notes,
    read_yaml,
    translate,
)
from burnish.core.errors import BadRecipe

#: KAITO's names of models, and their ids on the hub.
PRESETS = {
    "deepseek-r1-distill-llama-8b": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "deepseek-r1-distill-qwen-14b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "falcon-7b": "tiiuae/falcon-7b",
    "falcon-7b-instruct": "tiiuae/falcon-7b-instruct",
    "gemma-3-4b-instruct": "google/gemma-3-4b-it",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-v0.3",
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.3",
    "phi-2": "microsoft/phi-2",
    "phi-3-medium-128k-instruct": "microsoft/Phi-3-medium-128k-instruct",
    "phi-3-medium-4k-instruct": "microsoft/Phi-3-medium-4k-instruct",
    "phi-3-mini-128k-instruct": "microsoft/Phi-3-mini-128k-instruct",
    "phi-3-mini-4k-instruct": "microsoft/Phi-3-mini-4k-instruct",
    "phi-3.5-mini-instruct": "microsoft/Phi-3.5-mini-instruct",
    "phi-4": "microsoft/phi-4",
    "phi-4-mini-instruct": "microsoft/Phi-4-mini-instruct",
    "qwen2.5-coder-7b-instruct": "Qwen/Qwen2.5-Coder-7B-Instruct",
}
_CLUSTER = "there is no cluster; training is on this machine"
_LOADED = "models are loaded as burnish does it"
_WATCHED = "every step's figures are in the run's metrics.jsonl"
_SAVED = "checkpoints are kept in the run: train.checkpoint_every"
_DTYPES = (("bfloat16", "bfloat16"), ("float32", "float32"), ("float16", None), ("auto", None))
_ON = ((True, None),)
_OFF = ((False, None),)
#: Dotted keys, or the sections that they are in; those of the ConfigMap begin with its sections.
KEYS: Mapping[str, KeyRule] = {
    "apiVersion": KeyRule(ignored=_CLUSTER),
    "kind": KeyRule(),
    "metadata": KeyRule(ignored="a run is named by the time of its beginning"),
    "resource": KeyRule(ignored=_CLUSTER),
    "tuning.preset.name": KeyRule(),
    "tuning.preset.presetOptions": KeyRule(ignored="a model comes from the hub or a local folder"),
    "tuning.preset.accessMode": KeyRule(ignored="a model comes from the hub or a local folder"),
    "tuning.method": KeyRule(),
    "tuning.config": KeyRule(),
    "tuning.input": KeyRule(),
    "tuning.output": KeyRule(
        ignored="the artifact is in the run; `burnish export RUN --out FOLDER`"
    ),
    "ModelConfig.torch_dtype": KeyRule(
        "model.dtype", values=_DTYPES, refused="there is no such one"
    ),
    "ModelConfig": KeyRule(ignored=_LOADED),
    "QuantizationConfig.load_in_4bit": KeyRule(),
    "QuantizationConfig.load_in_8bit": KeyRule(values=_OFF, refused="it is 4 bits or all"),
    "QuantizationConfig.bnb_4bit_quant_type": KeyRule(values=(("nf4", None),), refused="it is nf4"),
    "QuantizationConfig.bnb_4bit_compute_dtype": KeyRule(ignored="it is model.dtype"),
    "QuantizationConfig.bnb_4bit_use_double_quant": KeyRule(),
    "LoraConfig.r": KeyRule(),
    "LoraConfig.lora_alpha": KeyRule(),
    "LoraConfig.lora_dropout": KeyRule(),
    "LoraConfig.target_modules": KeyRule(),
    "LoraConfig.use_rslora": KeyRule(),
    "LoraConfig.bias": KeyRule(values=(("none", None),), refused="biases stay as they are"),
    "LoraConfig.task_type": KeyRule(ignored="language models are tuned"),
    "LoraConfig.fan_in_fan_out": KeyRule(values=_OFF, refused="the layers say it themselves"),
    "LoraConfig.init_lora_weights": KeyRule(values=_ON, refused="adapters begin at zero"),
    "TrainingArguments.learning_rate": KeyRule("train.learning_rate"),
    "TrainingArguments.num_train_epochs": KeyRule("train.epochs"),
    "TrainingArguments.max_steps": KeyRule("train.max_steps"),
    "TrainingArguments.per_device_train_batch_size": KeyRule(),
    "TrainingArguments.gradient_accumulation_steps": KeyRule(),
    "TrainingArguments.warmup_ratio": KeyRule("train.warmup_ratio"),
    "TrainingArguments.weight_decay": KeyRule("train.weight_decay"),
    "TrainingArguments.max_grad_norm": KeyRule("train.max_grad_norm"),
    "TrainingArguments.seed": KeyRule("train.seed"),
    "TrainingArguments.lr_scheduler_type": KeyRule(
        "train.schedule", values=SCHEDULES, refused="there is no such schedule"
    ),
    "TrainingArguments.optim": KeyRule(values=ADAMW, refused="burnish trains with AdamW"),
    "TrainingArguments.gradient_checkpointing": KeyRule("train.gradient_checkpointing"),
    "TrainingArguments.torch_compile": KeyRule("train.compile"),
    "TrainingArguments.bf16": KeyRule(ignored="it is model.dtype"),
    "TrainingArguments.fp16": KeyRule(values=_OFF, refused="gradients overflow in it; use bf16"),
    "TrainingArguments.output_dir": KeyRule(ignored="runs are in the workspace's folder"),
    "TrainingArguments.save_total_limit": KeyRule("train.keep_checkpoints"),
    **{f"TrainingArguments.{name}": KeyRule(ignored=_SAVED)
       for name in ("save_strategy", "save_steps")},
    **{f"TrainingArguments.{name}": KeyRule(ignored=_WATCHED)
       for name in ("logging_steps", "logging_strategy", "report_to", "eval_strategy",
                    "evaluation_strategy", "eval_steps", "per_device_eval_batch_size")},
    "TrainingArguments.ddp_find_unused_parameters": KeyRule(ignored="see train.parallel"),
    "DataCollator": KeyRule(
        ignored="the answers are learnt and nothing else, and rows aren't padded"
    ),
    "DatasetConfig.shuffle_dataset": KeyRule(values=_ON, refused="rows are shuffled"),
    "DatasetConfig.shuffle_seed": KeyRule("data.seed"),
    "DatasetConfig.train_test_split": KeyRule(),
    "DatasetConfig.dataset_path": KeyRule(),
    "DatasetConfig.dataset_extension": KeyRule(ignored="a file's ending says it"),
    "DatasetConfig.context_column": KeyRule("data.columns.prompt"),
    "DatasetConfig.response_column": KeyRule("data.columns.completion"),
    "DatasetConfig.messages_column": KeyRule(
        values=(("messages", None),), refused="it is messages"
    ),
}  # fmt: skip

_DEFAULTS = {
    "ModelConfig.torch_dtype": "bfloat16",
    "QuantizationConfig.bnb_4bit_use_double_quant": True,
    "LoraConfig.r": 8,
    "LoraConfig.lora_alpha": 8,
    "LoraConfig.lora_dropout": 0.0,
    "LoraConfig.target_modules": ["all-linear"],
    "LoraConfig.use_rslora": False,
    "TrainingArguments.learning_rate": 5e-5,
    "TrainingArguments.num_train_epochs": 3,
    "TrainingArguments.per_device_train_batch_size": 1,
    "TrainingArguments.gradient_accumulation_steps": 1,
    "TrainingArguments.warmup_ratio": 0.0,
    "TrainingArguments.weight_decay": 0.0,
    "TrainingArguments.max_grad_norm": 1.0,
    "TrainingArguments.lr_scheduler_type": "linear",
    "TrainingArguments.seed": 42,
    "DatasetConfig.train_test_split": 1,
}
#: The ConfigMaps that KAITO brings along, which hold the defaults.
_OWN_CONFIGS = ("lora-params-template", "qlora-params-template")


def read_kaito(path: Path) -> ImportedConfig:
    """Read a Workspace with its ConfigMap, if it has one, beside it in the file.

    Raises BadRecipe and names every key that can't be honoured.
    """
    documents = [one for one in read_yaml(path) if isinstance(one, dict)]
    workspace = _workspace(path, documents)
    config = _config(path, workspace, documents)
    told = {**_DEFAULTS, **dict(leaves(workspace)), **dict(leaves(config))}
    found = translate(path, told, KEYS, None)
    preset = str(told.get("tuning.preset.name"))
    share = told["DatasetConfig.train_test_split"]
    fields = {
        **found.fields,
        "model.name": PRESETS.get(preset, preset),
        "train.method": _method(told),
        "train.batch_size": told["TrainingArguments.per_device_train_batch_size"]
        * told["TrainingArguments.gradient_accumulation_steps"],
        **_files(told),
    }
    if share < 1:
        fields["data.validation_share"] = round(1 - share, 6)
    return ImportedConfig(as_changes(fields), (*found.notes, *_differences(told, fields)))


def _workspace(path: Path, documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The one Workspace of the file that tunes. Raises BadRecipe if there is none."""
    found = [one for one in documents if one.get("kind") == "Workspace"]
    if len(found) != 1:
        raise BadRecipe(f"{path} has {len(found)} Workspaces.", "Name a file with one.")
    (own,) = found
    if "inference" in own:
        preset = (own["inference"] or {}).get("preset") or {}
        given = str(preset.get("name") or "MODEL")
        name = PRESETS.get(given, given)
        raise BadRecipe(
            f"{path} serves a model and tunes none.",
            f"burnish pull {name} and burnish serve {name}; adapters: burnish serve RUN RUN.",
        )
    if not isinstance(own.get("tuning"), dict):
        raise BadRecipe(f"{path} has no `tuning`.", "Name a Workspace that tunes a model.")
    return own


def _config(
    path: Path, workspace: Mapping[str, Any], documents: list[dict[str, Any]]
) -> dict[str, Any]:
    """The training configuration of the ConfigMap that the Workspace names; none if it names none.

    Raises BadRecipe if the ConfigMap isn't in the file, or holds something else.
    """
    name = workspace["tuning"].get("config")
    if not name:
        return {}
    maps = [
        one
        for one in documents
        if one.get("kind") == "ConfigMap" and (one.get("metadata") or {}).get("name") == name
    ]
    if not maps and name in _OWN_CONFIGS:
        return {}
    if not maps:
        raise BadRecipe(
            f"{path}: tuning.config names the ConfigMap {name}, which isn't in the file.",
            "Put it there behind a line `---`.",
        )
    text = (maps[0].get("data") or {}).get("training_config.yaml")
    try:
        found = yaml.safe_load(text or "")
    except yaml.YAMLError as error:
        raise BadRecipe(f"{path}: ConfigMap {name}: {error}", "Mend its YAML.") from error
    if not isinstance(found, dict) or not isinstance(found.get("training_config"), dict):
        raise BadRecipe(
            f"{path}: ConfigMap {name} has no training_config.",
            "It stands in data, under training_config.yaml.",
        )
    return dict(found["training_config"])


def _method(values: Mapping[str, Any]) -> dict[str, Any]:
    """The adapter. Raises BadRecipe for a method that KAITO hasn't."""
    kind = values.get("tuning.method")
    if kind not in ("lora", "qlora"):
        raise BadRecipe(f"tuning.method: {kind} isn't one of KAITO's.", "It is lora or qlora.")
    if kind == "qlora" and values.get("QuantizationConfig.load_in_4bit") is False:
        raise BadRecipe(
            "tuning.method is qlora, and QuantizationConfig.load_in_4bit is false.",
            "Let it be true, or tune with lora.",
        )
    targets = values["LoraConfig.target_modules"]
    found = {
        "kind": kind,
        "rank": values["LoraConfig.r"],
        "alpha": values["LoraConfig.lora_alpha"],
        "dropout": values["LoraConfig.lora_dropout"],
        "targets": [targets] if isinstance(targets, str) else targets,
        "rslora": values["LoraConfig.use_rslora"],
    }
    if kind == "qlora":
        found["double_quant"] = values["QuantizationConfig.bnb_4bit_use_double_quant"]
    return found


def _files(values: Mapping[str, Any]) -> dict[str, Any]:
    """The rows, if they lie in a folder of this machine. Raises BadRecipe if none are there."""
    folder = values.get("tuning.input.volumeSource.hostPath.path")
    if not folder:
        return {}
    named = values.get("DatasetConfig.dataset_path")
    if named:
        return {"data.train": [str(Path(folder) / str(named).lstrip("/"))]}
    files = sorted(file for file in Path(folder).glob("**/*") if file.suffix in SUFFIXES)
    if not files:
        raise BadRecipe(
            f"There are no rows in {folder}.", f"Put a file there: {', '.join(SUFFIXES)}."
        )
    return {"data.train": [str(files[0])]}


def _differences(values: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    """What KAITO does, and burnish otherwise."""
    if "data.train" not in fields:
        yield "tuning.input isn't fetched: fetch the rows and add --set data.train=[FILE]"
    if str(values.get("tuning.preset.name")) not in PRESETS:
        yield "tuning.preset.name is taken for a model of this machine or the hub"
    yield from precision_notes(
        values["ModelConfig.torch_dtype"], values.get("TrainingArguments.optim")
    )
    yield "a share of the rows is kept for validation and test: data.validation_share, test_share"
