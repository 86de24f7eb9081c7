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
    ENDINGS,
    SCHEDULES,
    Key,
    Meant,
    as_changes,
    leaves,
    of_precision,
    read_one,
    translate,
)
from burnish.core.errors import BadRecipe

_HERE = "training is on this machine; let it be local"
_WATCHED = "every step's figures are in the run's metrics.jsonl, validations are twice an epoch"
_PADDING = "rows aren't padded: they lie behind each other"
#: Dotted keys, or the sections that they are in.
KEYS: Mapping[str, Key] = {
    "task": Key(),
    "base_model": Key("model.name"),
    "project_name": Key(ignored="a run is named by the time of its beginning"),
    "log": Key(
        "train.tracker",
        values=(
            ("none", None),
            ("tensorboard", "tensorboard"),
            ("wandb", "wandb"),
            ("mlflow", "mlflow"),
        ),
        refused="it is tensorboard, wandb, mlflow or none",
    ),
    "backend": Key(values=(("local", None), ("local-cli", None)), refused=_HERE),
    "data.path": Key(),
    "data.train_split": Key(),
    "data.valid_split": Key(),
    "data.chat_template": Key(),
    "data.column_mapping": Key(),
    "params.lr": Key("train.learning_rate"),
    "params.epochs": Key("train.epochs"),
    "params.batch_size": Key(),
    "params.gradient_accumulation": Key(),
    "params.warmup_ratio": Key("train.warmup_share"),
    "params.weight_decay": Key("train.weight_decay"),
    "params.max_grad_norm": Key("train.max_grad_norm"),
    "params.seed": Key("train.seed"),
    "params.scheduler": Key("train.schedule", values=SCHEDULES, refused="there is no such one"),
    "params.optimizer": Key(values=ADAMW, refused="burnish trains with AdamW"),
    "params.mixed_precision": Key(
        "model.dtype",
        values=(("bf16", "bfloat16"), ("fp16", None), ("none", None)),
        refused="it is bf16, fp16 or none",
    ),
    "params.block_size": Key(),
    "params.model_max_length": Key(),
    "params.max_seq_length": Key("train.max_length"),
    "params.max_target_length": Key(ignored="train.max_length bounds text and answer together"),
    "params.max_prompt_length": Key(ignored="train.max_length bounds prompt and answer together"),
    "params.max_completion_length": Key(
        ignored="train.max_length bounds prompt and answer together"
    ),
    "params.peft": Key(),
    "params.quantization": Key(),
    "params.target_modules": Key(),
    "params.lora_r": Key(),
    "params.lora_alpha": Key(),
    "params.lora_dropout": Key(),
    "params.merge_adapter": Key(ignored="`burnish export RUN --to merged` puts the adapter in"),
    "params.dpo_beta": Key(),
    "params.model_ref": Key(ignored="answers are held to where the model began"),
    "params.early_stopping_patience": Key("train.patience"),
    "params.early_stopping_threshold": Key(ignored="any lower validation loss is a better one"),
    "params.disable_gradient_checkpointing": Key(
        "train.gradient_checkpointing", values=((True, False), (False, True)), refused="true, false"
    ),
    "params.save_total_limit": Key("train.keep_checkpoints"),
    "params.eval_strategy": Key(ignored=_WATCHED),
    "params.logging_steps": Key(ignored=_WATCHED),
    "params.padding": Key(ignored=_PADDING),
    "params.add_eos_token": Key(ignored="an answer ends with the token that ends a turn"),
    "params.auto_find_batch_size": Key(ignored="passes are filled by train.micro_batch_tokens"),
    "params.use_flash_attention_2": Key(ignored="the attention is chosen by the hardware"),
    "params.unsloth": Key(ignored="training is burnish's own"),
    "params.distributed_backend": Key(ignored="see train.parallel"),
    "hub": Key(ignored="nothing is uploaded"),
}


@dataclass(frozen=True, slots=True)
class Trainer:
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

TRAINERS: Mapping[str, Trainer] = {
    "llm": Trainer("sft", {"text_column": "text"}, _LLM, adapts=True),
    "llm-generic": Trainer("sft", {"text_column": "text"}, _LLM, adapts=True),
    "llm-sft": Trainer("sft", {"text_column": "text"}, _LLM, adapts=True),
    "llm-dpo": Trainer("dpo", _PAIRS, _LLM, adapts=True),
    "llm-orpo": Trainer("orpo", _PAIRS, _LLM, adapts=True),
    "llm-reward": Trainer("reward", _PAIRS, _LLM, adapts=True),
    "text-classification": Trainer(
        "classify",
        {"text_column": "prompt", "target_column": "label"},
        _ENCODER,
        "classification",
    ),
    "token-classification": Trainer(
        "token_classify", {"tokens_column": "tokens", "tags_column": "tags"}, _ENCODER
    ),
    "seq2seq": Trainer(
        "seq2seq", {"text_column": "prompt", "target_column": "completion"}, _SEQ2SEQ, adapts=True
    ),
    "sentence-transformers:pair": Trainer(
        "embed", {"sentence1_column": "prompt", "sentence2_column": "completion"}, _VECTORS
    ),
    "sentence-transformers:qa": Trainer(
        "embed", {"sentence1_column": "prompt", "sentence2_column": "completion"}, _VECTORS
    ),
    "sentence-transformers:triplet": Trainer(
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


def read_autotrain(path: Path) -> Meant:
    """Read AutoTrain's YAML. Raises BadRecipe and names every key that can't be honoured."""
    given = read_one(path)
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
    return Meant(as_changes(fields), (*found.notes, *_differences(told)))


def _trainer(told: Mapping[str, Any]) -> Trainer:
    name = told.get("task")
    own = TRAINERS.get(_ALIASES.get(str(name), str(name)))
    if own is None:
        raise BadRecipe(
            f"task: {name} isn't one that burnish trains.",
            f"Those are {', '.join(TRAINERS)}.",
        )
    return own


def _objective(told: Mapping[str, Any], trainer: Trainer) -> Any:
    if trainer.objective == "dpo":
        return {"kind": "dpo", "beta": told["params.dpo_beta"]}
    if trainer.loss:
        return {"kind": trainer.objective, "loss": trainer.loss}
    return trainer.objective


def _method(told: Mapping[str, Any], trainer: Trainer) -> Any:
    if not (trainer.adapts and told["params.peft"]):
        return "full"
    bits = told["params.quantization"]
    if bits not in ("int4", "none", None):
        raise BadRecipe(
            f"params.quantization: {bits} can't be honoured: frozen weights have 4 bits or all.",
            "Let it be int4, or null.",
        )
    named = str(told["params.target_modules"]).split(",")
    return {
        "kind": "qlora" if bits == "int4" else "lora",
        "rank": told["params.lora_r"],
        "alpha": told["params.lora_alpha"],
        "dropout": told["params.lora_dropout"],
        "targets": [name.strip() for name in named],
    }


def _batch(told: Mapping[str, Any]) -> dict[str, Any]:
    return {"train.batch_size": told["params.batch_size"] * told["params.gradient_accumulation"]}


def _columns(told: Mapping[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Which of the file's columns hold what. Raises BadRecipe for one that must have its usual
    name."""
    found = {}
    for theirs, ours in trainer.columns.items():
        name = told.get(f"data.column_mapping.{theirs}")
        if name is None:
            continue
        is_talk = ours == "text" and told.get("data.chat_template") not in (None, "none")
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


def _files(told: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The files of the splits, in the folder that the file names; beside it if that is relative."""
    found = {}
    folder = path.parent / str(told.get("data.path") or ".")
    for theirs, ours in (("train_split", "train"), ("valid_split", "validation")):
        split = told.get(f"data.{theirs}")
        if split is None:
            continue
        files = [folder / f"{split}{ending}" for ending in ENDINGS]
        here = [str(file) for file in files if file.is_file()]
        if not here:
            raise BadRecipe(
                f"There is no {' or '.join(file.name for file in files)} in {folder}.",
                "Put the rows there as such a file: burnish fetches no data sets.",
            )
        found[f"data.{ours}"] = here[:1]
    return found


def _differences(told: Mapping[str, Any]) -> Iterator[str]:
    """What AutoTrain does, and burnish otherwise."""
    yield from of_precision(told.get("params.mixed_precision"), told.get("params.optimizer"))
    template = told.get("data.chat_template")
    if template not in (None, "none", "tokenizer"):
        yield f"chat_template {template}: the model's own is used, and the plain one if it has none"
    if told.get("data.valid_split") is None:
        yield "without valid_split a share of the rows is set aside: data.validation_share"
    yield "a share of the rows is kept for the test: data.test_share"
