"""`olive finetune`: rows by a template, a training of an adapter, and what Olive leaves behind."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.compat.olive.flags import BadFlag, Flag, ParsedFlags, one_of
from burnish.compat.olive.report import OliveReport
from burnish.compat.olive.rows import DatasetSource, RowTemplate, load_records, write_rows
from burnish.core.atomic import atomic_folder, write_json
from burnish.core.recipe.data import Data
from burnish.core.recipe.recipe import Recipe, make_recipe
from burnish.core.settings import workspace

#: Olive trains on the first so many rows unless told otherwise.
_MAX_SAMPLES = 256
_MACHINE_DECIDES = "the machine decides"
_NO_CODE = "burnish runs no code that comes with a model"
_EVERY_STEP = "every step's loss is in the run's metrics.jsonl"
_TASKS = {
    "classification": "classification",
    "generation": "generation",
    "extraction": "extraction",
    "ner": "extraction",
    "summarization": "generation",
    "qa": "qa",
}
_SCHEDULES = {"constant_with_warmup": "constant"}
_REMOTE = "burnish trains on this machine"

FLAGS: Mapping[str, Flag] = {
    "--model_name_or_path": Flag(),
    "--trust_remote_code": Flag(bool, ignored=_NO_CODE),
    "--task": Flag(one_of({}, "text-generation")),
    "--torch_dtype": Flag(
        one_of({"float16": "gradients overflow in it; use bfloat16."}, "bfloat16", "float32")
    ),
    "--precision": Flag(ignored="the adapter keeps the number format that it was trained in"),
    "--use_ort_genai": Flag(bool, ignored="`auto-opt` makes the folder for ORT-GenAI"),
    "--data_name": Flag(),
    "--data_files": Flag(),
    "--train_split": Flag(),
    "--eval_split": Flag(),
    "--text_field": Flag(),
    "--text_template": Flag(),
    "--use_chat_template": Flag(bool),
    "--max_seq_len": Flag(int),
    "--max_samples": Flag(int),
    "--task_name": Flag(one_of({}, *_TASKS)),
    "--method": Flag(one_of({}, "lora", "qlora", "dora")),
    "--lora_r": Flag(int),
    "--lora_alpha": Flag(float),
    "--lora_dropout": Flag(float),
    "--target_modules": Flag(),
    "--modules_to_save": Flag(ignored="these layers stay as they are; only the adapter is trained"),
    "--output_path": Flag(),
    "--clean": Flag(bool, ignored="there is no cache of earlier results"),
    "--tempdir": Flag(ignored=_MACHINE_DECIDES),
    "--cache_dir": Flag(ignored=_MACHINE_DECIDES),
    "--log_level": Flag(ignored="progress goes to stderr; `burnish -q` silences it"),
    "--resource_group": Flag(refused=_REMOTE),
    "--workspace_name": Flag(refused=_REMOTE),
    "--aml_compute": Flag(refused=_REMOTE),
    # What follows are training arguments of transformers, which Olive passes through.
    "--max_steps": Flag(int),
    "--num_train_epochs": Flag(float),
    "--learning_rate": Flag(float),
    "--per_device_train_batch_size": Flag(int),
    "--gradient_accumulation_steps": Flag(int),
    "--per_device_eval_batch_size": Flag(int, ignored="validation batches are filled by tokens"),
    "--gradient_checkpointing": Flag(bool),
    "--lr_scheduler_type": Flag(one_of({}, "constant", "constant_with_warmup", "linear", "cosine")),
    "--warmup_ratio": Flag(float),
    "--weight_decay": Flag(float),
    "--max_grad_norm": Flag(float),
    "--seed": Flag(int),
    "--eval_steps": Flag(int),
    "--save_steps": Flag(int),
    "--save_total_limit": Flag(int),
    "--report_to": Flag(one_of({}, "tensorboard", "mlflow", "wandb", "trackio", "none")),
    "--bf16": Flag(bool),
    "--fp16": Flag(bool, refused="gradients overflow in it; use --bf16."),
    "--optim": Flag(one_of({"paged_adamw_32bit": "it pages GPU memory."}, "adamw_torch", "adamw")),
    "--logging_steps": Flag(ignored=_EVERY_STEP),
    "--logging_dir": Flag(ignored="what is logged lies in the run's folder"),
    "--logging_strategy": Flag(ignored=_EVERY_STEP),
    "--eval_strategy": Flag(ignored="it follows --eval_steps and --eval_split"),
    "--evaluation_strategy": Flag(ignored="it follows --eval_steps and --eval_split"),
    "--save_strategy": Flag(ignored="it follows --save_steps"),
    "--load_best_model_at_end": Flag(bool, ignored="the best checkpoint is always the one kept"),
    "--dataloader_num_workers": Flag(ignored="the rows are in memory as tokens"),
}
#: Flag → the recipe's field.
_FIELDS = {
    "--lora_r": "train.method.rank",
    "--lora_alpha": "train.method.alpha",
    "--lora_dropout": "train.method.dropout",
    "--max_seq_len": "train.max_length",
    "--max_steps": "train.max_steps",
    "--num_train_epochs": "train.epochs",
    "--learning_rate": "train.learning_rate",
    "--gradient_checkpointing": "train.gradient_checkpointing",
    "--lr_scheduler_type": "train.schedule",
    "--warmup_ratio": "train.warmup_ratio",
    "--weight_decay": "train.weight_decay",
    "--max_grad_norm": "train.max_grad_norm",
    "--seed": "train.seed",
    "--eval_steps": "train.evaluate_every",
    "--save_steps": "train.checkpoint_every",
    "--save_total_limit": "train.keep_checkpoints",
    "--torch_dtype": "model.dtype",
}
#: Olive's own defaults (its LoRA pass and command line), and transformers' batch of 8 rows.
_DEFAULTS: Mapping[str, Any] = {
    "--method": "lora",
    "--lora_r": 64,
    "--lora_alpha": 16.0,
    "--lora_dropout": 0.05,
    "--learning_rate": 2e-4,
    "--lr_scheduler_type": "constant",
    "--warmup_ratio": 0.03,
    "--max_seq_len": 1024,
    "--num_train_epochs": 3.0,
    "--per_device_train_batch_size": 8,
    "--train_split": "train",
    "--output_path": "finetuned-adapter",
}
#: What a command that names no model or no data takes from the last one that did.
_REMEMBERED = (
    "--model_name_or_path",
    "--data_name",
    "--data_files",
    "--train_split",
    "--eval_split",
    "--text_field",
    "--text_template",
    "--use_chat_template",
)


@dataclass(frozen=True, slots=True)
class _RowFiles:
    train: Path
    validation: Path | None


def finetune(parsed: ParsedFlags, search: Mapping[str, Any] | None = None) -> OliveReport:
    """Train as the flags say, and write `model/`, the base, and `adapter/` to `--output_path`.

    With a `search`, the recipe's section, its settings are tried and the best are left. The run
    lies in the workspace, where `burnish train --resume` finds one training. Raises BadFlag,
    NotFound, BadData, AlreadyThere before anything is trained.
    """
    notes = list(parsed.notes)
    values = {**_DEFAULTS, **_fill_from_last(dict(parsed.values), notes)}
    output = Path(values["--output_path"]).absolute()
    from burnish.models.local_models import find_model

    base = find_model(values["--model_name_or_path"])
    with atomic_folder(output) as draft:
        recipe = _build_recipe(values, _write_row_files(values, notes))
        artifact, facts = _run_search(recipe, search, notes) if search else _run_training(recipe)
        shutil.copytree(artifact, draft / "adapter")
        shutil.copytree(base.path, draft / "model", copy_function=_link)
    _remember(values)
    return OliveReport(
        "finetune", output, tuple(notes), facts,
        next=f"burnish olive auto-opt -m {values['--output_path']}/model "
        f"-a {values['--output_path']}/adapter --precision int4 -o OUT",
    )  # fmt: skip


def _run_training(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The adapter of one training, and what is told of it."""
    from burnish.train.run import train

    done = train(recipe)
    return str(done.artifact), {"run": done.run, "steps": done.steps}


def _run_search(
    recipe: Recipe, section: Mapping[str, Any], notes: list[str]
) -> tuple[str, dict[str, Any]]:
    """The adapter of the best trial, and what is told of the search."""
    from burnish.train.search.run import search

    if not recipe.data.validation:
        share = Data().validation_share
        notes.append(f"The trials are judged by {share:.0%} of the rows, set aside; name "
                     "eval_data_config to choose them.")  # fmt: skip
        recipe = make_recipe(recipe.model_dump(mode="json"), [f"data.validation_share={share}"])
    # The documents ask for trials and their best: one training more for each seed isn't theirs.
    content = {**recipe.model_dump(mode="json"), "search": {"seeds": 1, **section}}
    done = search(make_recipe(content))
    best = ", ".join(f"{field} {value}" for field, value in done.best.items())
    notes.append(f"The best of {len(done.trials)} trials by validation loss: {best}.")
    facts = {"run": done.run, "best": dict(done.best), "trials": done.trials}
    return done.artifact, facts


def _write_row_files(values: Mapping[str, Any], notes: list[str]) -> _RowFiles:
    files = tuple(file for file in values.get("--data_files", "").split(",") if file)
    source = DatasetSource(values.get("--data_name"), files)
    ways = ("--text_field", "--text_template", "--use_chat_template")
    if sum(bool(values.get(way)) for way in ways) != 1:
        raise BadFlag("What is learnt of a row isn't clear.", f"Give one of {', '.join(ways)}.")
    if values.get("--task_name") and not values.get("--text_template"):
        raise BadFlag("--task_name asks for the answer alone.", "Give --text_template too.")
    shape = RowTemplate(
        values.get("--text_field"), values.get("--text_template"), "--task_name" in values
    )
    records = load_records(source, values["--train_split"])
    most = values.get("--max_samples", _MAX_SAMPLES)
    if len(records) > most:
        why = (
            ""
            if "--max_samples" in values
            else "; that is Olive's default, --max_samples says more"
        )
        notes.append(f"Only the first {most} of {len(records)} rows are trained on{why}.")
        records = records[:most]
    if not shape.answer_only and not values.get("--use_chat_template"):
        notes.append("The text is learnt whole, the question too, as Olive does; "
                     "`burnish train` learns answers only.")  # fmt: skip
    split = values.get("--eval_split")
    validation = write_rows(load_records(source, split), shape) if split else None
    return _RowFiles(write_rows(records, shape), validation)


def _build_recipe(values: Mapping[str, Any], rows: _RowFiles) -> Recipe:
    batch = values["--per_device_train_batch_size"] * values.get("--gradient_accumulation_steps", 1)
    method = {"kind": values["--method"]}
    content: dict[str, Any] = {
        "model": {"name": values["--model_name_or_path"]},
        "data": {"train": [str(rows.train)], "validation_share": 0, "test_share": 0},
        "train": {"method": method, "batch_size": batch, "patience": 0},
    }
    if rows.validation:
        content["data"]["validation"] = [str(rows.validation)]
    if values.get("--task_name"):
        content["task"] = {"kind": _TASKS[values["--task_name"]]}
    if values.get("--target_modules"):
        method["targets"] = values["--target_modules"].split(",")
    if values.get("--bf16"):
        content["model"]["dtype"] = "bfloat16"
    if values.get("--report_to", "none") != "none":
        content["train"]["tracker"] = values["--report_to"]
    schedule = values["--lr_scheduler_type"]
    values = {**values, "--lr_scheduler_type": _SCHEDULES.get(schedule, schedule)}
    changes = [
        f"{field}={json.dumps(values[flag])}" for flag, field in _FIELDS.items() if flag in values
    ]
    return make_recipe(content, changes)


def _fill_from_last(values: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The flags, with model and data of the last command for those that name none."""
    file = workspace() / "olive" / "last.json"
    last = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if "--model_name_or_path" in values and {"--data_name", "--data_files"} & set(values):
        return values
    taken = {}
    if "--model_name_or_path" not in values:
        taken = {key: last[key] for key in _REMEMBERED[:1] if key in last}
    if not {"--data_name", "--data_files"} & set(values):
        taken |= {key: last[key] for key in _REMEMBERED[1:] if key in last}
    whole = {**taken, **values}
    if "--model_name_or_path" not in whole or not {"--data_name", "--data_files"} & set(whole):
        raise BadFlag(
            "The command names no model or no data, and no earlier one in this workspace did.",
            "Add --model_name_or_path NAME --data_name NAME --text_template '{a} {b}'.",
        )
    said = ", ".join(f"{key} {value}" for key, value in taken.items())
    notes.append(f"Taken from the last `olive finetune` of this workspace: {said}.")
    return whole


def _remember(values: Mapping[str, Any]) -> None:
    kept = {key: values[key] for key in _REMEMBERED if key in values}
    write_json(workspace() / "olive" / "last.json", kept)


def _link(source: str, target: str) -> None:
    """A second name for the same bytes where the disk can, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
