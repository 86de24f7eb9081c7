"""AutoTrain's YAML file, read strictly: each key becomes a setting of the recipe, changes nothing
here and says so, or is refused by name. What the file leaves out is as AutoTrain has it.

Meanings and defaults are those of autotrain-advanced 0.8 (`trainers/*/params.py`, `parser.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.compat.translate import (
    ADAMW,
    SCHEDULES,
    SUFFIXES,
    ImportedConfig,
    KeyRule,
    as_changes,
    leaves,
    precision_notes,
    read_single_yaml,
    translate,
)
from burnish.core.errors import BadRecipe

_HERE = "training is on this machine; let it be local"
_WATCHED = "every step's figures are in the run's metrics.jsonl, validations are twice an epoch"
_PADDING = "rows aren't padded: they lie behind each other"
#: Dotted keys, or the sections that they are in.
KEYS: Mapping[str, KeyRule] = {
    "task": KeyRule(),
    "base_model": KeyRule("model.name"),
    "project_name": KeyRule(ignored="a run is named by the time of its beginning"),
    "log": KeyRule(
        "train.tracker",
        values=(
            ("none", None),
            ("tensorboard", "tensorboard"),
            ("wandb", "wandb"),
            ("mlflow", "mlflow"),
        ),
        refused="it is tensorboard, wandb, mlflow or none",
    ),
    "backend": KeyRule(values=(("local", None), ("local-cli", None)), refused=_HERE),
    "data.path": KeyRule(),
    "data.train_split": KeyRule(),
    "data.valid_split": KeyRule(),
    "data.chat_template": KeyRule(),
    "data.column_mapping": KeyRule(),
    "params.lr": KeyRule("train.learning_rate"),
    "params.epochs": KeyRule("train.epochs"),
    "params.batch_size": KeyRule(),
    "params.gradient_accumulation": KeyRule(),
    "params.warmup_ratio": KeyRule("train.warmup_ratio"),
    "params.weight_decay": KeyRule("train.weight_decay"),
    "params.max_grad_norm": KeyRule("train.max_grad_norm"),
    "params.seed": KeyRule("train.seed"),
    "params.scheduler": KeyRule("train.schedule", values=SCHEDULES, refused="there is no such one"),
    "params.optimizer": KeyRule(values=ADAMW, refused="burnish trains with AdamW"),
    "params.mixed_precision": KeyRule(
        "model.dtype",
        values=(("bf16", "bfloat16"), ("fp16", None), ("none", None)),
        refused="it is bf16, fp16 or none",
    ),
    "params.block_size": KeyRule(),
    "params.model_max_length": KeyRule(),
    "params.max_seq_length": KeyRule("train.max_length"),
    "params.max_target_length": KeyRule(ignored="train.max_length bounds text and answer together"),
    "params.max_prompt_length": KeyRule(
        ignored="train.max_length bounds prompt and answer together"
    ),
    "params.max_completion_length": KeyRule(
        ignored="train.max_length bounds prompt and answer together"
    ),
    "params.peft": KeyRule(),
    "params.quantization": KeyRule(),
    "params.target_modules": KeyRule(),
    "params.lora_r": KeyRule(),
    "params.lora_alpha": KeyRule(),
    "params.lora_dropout": KeyRule(),
    "params.merge_adapter": KeyRule(ignored="`burnish export RUN --to merged` puts the adapter in"),
    "params.dpo_beta": KeyRule(),
    "params.model_ref": KeyRule(ignored="answers are held to where the model began"),
    "params.early_stopping_patience": KeyRule("train.patience"),
    "params.early_stopping_threshold": KeyRule(ignored="any lower validation loss is a better one"),
    "params.disable_gradient_checkpointing": KeyRule(
        "train.gradient_checkpointing", values=((True, False), (False, True)), refused="true, false"
    ),
    "params.save_total_limit": KeyRule("train.keep_checkpoints"),
    "params.eval_strategy": KeyRule(ignored=_WATCHED),
    "params.logging_steps": KeyRule(ignored=_WATCHED),
    "params.padding": KeyRule(ignored=_PADDING),
    "params.add_eos_token": KeyRule(ignored="an answer ends with the token that ends a turn"),
    "params.auto_find_batch_size": KeyRule(ignored="passes are filled by train.micro_batch_tokens"),
    "params.use_flash_attention_2": KeyRule(ignored="the attention is chosen by the hardware"),
    "params.unsloth": KeyRule(ignored="training is burnish's own"),
    "params.distributed_backend": KeyRule(ignored="see train.parallel"),
    "hub": KeyRule(ignored="nothing is uploaded"),
}


@dataclass(frozen=True, slots=True)
class AutotrainTrainer:
    """One of AutoTrain's trainers: the objective (with its `loss`, if that isn't the usual one) and
    task it comes to, the recipe's column for each of its own, and its defaults."""

    objective: str
    columns: Mapping[str, str]
    defaults: Mapping[str, Any]
    task: str = "auto"
    adapts: bool = False
    loss: str = ""


_LLM = {
    "lr": 3e-5, "epochs": 1, "batch_size": 2, "gradient_accumulation": 4, "warmup_ratio": 0.1,
    "scheduler": "linear", "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 42, "block_size": -1,
    "model_max_length": 2048, "peft": False, "quantization": "int4", "target_modules": "all-linear",
    "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "dpo_beta": 0.1,
}  # fmt: skip
_ENCODER = {
    "lr": 5e-5, "epochs": 3, "batch_size": 8, "gradient_accumulation": 1, "warmup_ratio": 0.1,
    "scheduler": "linear", "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 42,
    "max_seq_length": 128, "early_stopping_patience": 5,
}  # fmt: skip
_SEQ2SEQ = {
    **_ENCODER, "batch_size": 2, "peft": False, "quantization": "int8",
    "target_modules": "all-linear", "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05,
}  # fmt: skip
_PAIRS = {
    "prompt_text_column": "prompt",
    "text_column": "chosen",
    "rejected_text_column": "rejected",
}
_VECTORS = {**_ENCODER, "lr": 3e-5}

TRAINERS: Mapping[str, AutotrainTrainer] = {
    "llm": AutotrainTrainer("sft", {"text_column": "text"}, _LLM, adapts=True),
    "llm-generic": AutotrainTrainer("sft", {"text_column": "text"}, _LLM, adapts=True),
    "llm-sft": AutotrainTrainer("sft", {"text_column": "text"}, _LLM, adapts=True),
    "llm-dpo": AutotrainTrainer("dpo", _PAIRS, _LLM, adapts=True),
    "llm-orpo": AutotrainTrainer("orpo", _PAIRS, _LLM, adapts=True),
    "llm-reward": AutotrainTrainer("reward", _PAIRS, _LLM, adapts=True),
    "text-classification": AutotrainTrainer(
        "classify",
        {"text_column": "prompt", "target_column": "label"},
        _ENCODER,
        "classification",
    ),
    "token-classification": AutotrainTrainer(
        "token_classify", {"tokens_column": "tokens", "tags_column": "tags"}, _ENCODER
    ),
    "seq2seq": AutotrainTrainer(
        "seq2seq", {"text_column": "prompt", "target_column": "completion"}, _SEQ2SEQ, adapts=True
    ),
    "sentence-transformers:pair": AutotrainTrainer(
        "embed", {"sentence1_column": "prompt", "sentence2_column": "completion"}, _VECTORS
    ),
    "sentence-transformers:qa": AutotrainTrainer(
        "embed", {"sentence1_column": "prompt", "sentence2_column": "completion"}, _VECTORS
    ),
    "sentence-transformers:triplet": AutotrainTrainer(
        "embed",
        {
            "sentence1_column": "prompt",
            "sentence2_column": "chosen",
            "sentence3_column": "rejected",
        },
        _VECTORS,
        loss="triplet",
    ),
}
#: The same by AutoTrain's other names.
_ALIASES = {
    "text_classification": "text-classification",
    "text_binary_classification": "text-classification",
    "text_multi_class_classification": "text-classification",
    "text-binary-classification": "text-classification",
    "token_classification": "token-classification",
    "text_token_classification": "token-classification",
    "lm_training": "llm",
    **{f"st:{kind}": f"sentence-transformers:{kind}" for kind in ("pair", "qa", "triplet")},
}


def read_autotrain(path: Path) -> ImportedConfig:
    """Read AutoTrain's YAML. Raises BadRecipe and names every key that can't be honoured."""
    given = read_single_yaml(path)
    if not isinstance(given, dict):
        raise BadRecipe(f"{path} is not a mapping.", "Begin it with `task: llm-sft`.")
    told = dict(leaves(given))
    trainer = _trainer(told)
    told |= {
        f"params.{name}": value
        for name, value in trainer.defaults.items()
        if f"params.{name}" not in told
    }
    found = translate(path, told, KEYS, None)
    fields = {**found.fields, **_batch(told), **_columns(told, trainer), **_files(told, path)}
    fields["train.objective"] = _objective(told, trainer)
    fields["train.method"] = _method(told, trainer)
    if trainer.task != "auto":
        fields["task.kind"] = trainer.task
    if "block_size" in trainer.defaults:
        block = told["params.block_size"]
        fields["train.max_length"] = (
            block if block and block > 0 else told["params.model_max_length"]
        )
    return ImportedConfig(as_changes(fields), (*found.notes, *_differences(told)))


def _trainer(values: Mapping[str, Any]) -> AutotrainTrainer:
    name = values.get("task")
    own = TRAINERS.get(_ALIASES.get(str(name), str(name)))
    if own is None:
        raise BadRecipe(
            f"task: {name} isn't one that burnish trains.",
            f"Those are {', '.join(TRAINERS)}.",
        )
    return own


def _objective(values: Mapping[str, Any], trainer: AutotrainTrainer) -> Any:
    if trainer.objective == "dpo":
        return {"kind": "dpo", "beta": values["params.dpo_beta"]}
    if trainer.loss:
        return {"kind": trainer.objective, "loss": trainer.loss}
    return trainer.objective


def _method(values: Mapping[str, Any], trainer: AutotrainTrainer) -> Any:
    if not (trainer.adapts and values["params.peft"]):
        return "full"
    bits = values["params.quantization"]
    if bits not in ("int4", "none", None):
        raise BadRecipe(
            f"params.quantization: {bits} can't be honoured: frozen weights have 4 bits or all.",
            "Let it be int4, or null.",
        )
    named = str(values["params.target_modules"]).split(",")
    return {
        "kind": "qlora" if bits == "int4" else "lora",
        "rank": values["params.lora_r"],
        "alpha": values["params.lora_alpha"],
        "dropout": values["params.lora_dropout"],
        "targets": [name.strip() for name in named],
    }


def _batch(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "train.batch_size": values["params.batch_size"] * values["params.gradient_accumulation"]
    }


def _columns(values: Mapping[str, Any], trainer: AutotrainTrainer) -> dict[str, Any]:
    """Which of the file's columns hold what. Raises BadRecipe for one that must have its usual
    name."""
    found = {}
    for theirs, ours in trainer.columns.items():
        name = values.get(f"data.column_mapping.{theirs}")
        if name is None:
            continue
        is_talk = ours == "text" and values.get("data.chat_template") not in (None, "none")
        usual = "messages" if is_talk else ours
        if is_talk or ours in ("tokens", "tags"):
            if name != usual:
                raise BadRecipe(
                    f"data.column_mapping.{theirs}: {name} holds what burnish reads from {usual}.",
                    f"Rename the column to {usual}.",
                )
        else:
            found[f"data.columns.{ours}"] = name
    return found


def _files(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The files of the splits, in the folder that the file names; beside it if that is relative."""
    found = {}
    folder = path.parent / str(values.get("data.path") or ".")
    for theirs, ours in (("train_split", "train"), ("valid_split", "validation")):
        split = values.get(f"data.{theirs}")
        if split is None:
            continue
        files = [folder / f"{split}{ending}" for ending in SUFFIXES]
        here = [str(file) for file in files if file.is_file()]
        if not here:
            raise BadRecipe(
                f"There is no {' or '.join(file.name for file in files)} in {folder}.",
                "Put the rows there as such a file: burnish fetches no data sets.",
            )
        found[f"data.{ours}"] = here[:1]
    return found


def _differences(values: Mapping[str, Any]) -> Iterator[str]:
    """What AutoTrain does, and burnish otherwise."""
    yield from precision_notes(values.get("params.mixed_precision"), values.get("params.optimizer"))
    template = values.get("data.chat_template")
    if template not in (None, "none", "tokenizer"):
        yield f"chat_template {template}: the model's own is used, and the plain one if it has none"
    if values.get("data.valid_split") is None:
        yield "without valid_split a share of the rows is set aside: data.validation_share"
    yield "a share of the rows is kept for the test: data.test_share"
