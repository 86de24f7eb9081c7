"""Turn a job request into a recipe: check its files, resolve `auto` to numbers.

Faults of the request are answered at once; faults of the rows fail the job and name their lines.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from burnish.core.errors import BadRecipe, BurnishError
from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import Recipe, make_recipe
from burnish.core.recipe.rewards import Reward
from burnish.core.records import Row, describe_rows
from burnish.data.load import load
from burnish.evaluate.rewards import reward_function
from burnish.models.chat_template import encode_row, split_as_served
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model
from burnish.models.token_audit import audit
from burnish.train.batching.examples import without_answer

#: The hosted API's least number of rows.
MIN_ROWS = 10
_MAX_BATCH = 16
#: Answers sampled per question, times `compute_multiplier`.
_NUM_GENERATIONS = 8
_NO_LIMIT = 1 << 30
_REWARD_ADAPTER: TypeAdapter[Any] = TypeAdapter(Annotated[Reward, Field(discriminator="kind")])


class BadFile(BurnishError):
    """A training or validation file cannot be used; `param` says which of the two."""

    def __init__(self, what: str, fix: str = "", param: str = "training_file") -> None:
        super().__init__(what, fix)
        self.param = param


@dataclass(frozen=True, slots=True)
class MethodPreset:
    """A method: its defaults, its learning rate for multiplier 1, its objective and its rows.

    `defaults` has what `auto` stands for, except the batch size; `hint` explains which rows fit.
    """

    defaults: Mapping[str, Any]
    learning_rate: float
    objective: Callable[[Mapping[str, Any]], dict[str, Any]]
    accepts: Callable[[Row], bool]
    hint: str


def reward_from_grader(grader: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a grader as clients write it into the recipe's reward."""
    reward = {("kind" if name == "type" else name): value for name, value in grader.items()}
    if "graders" in reward:
        graders = reward["graders"]
        named = {graders["name"]: graders} if "type" in graders else graders
        reward["graders"] = {name: reward_from_grader(inner) for name, inner in named.items()}
    # The sandbox has one image, whatever tag a grader names.
    return {name: value for name, value in reward.items() if name not in ("name", "image_tag")}


METHODS = {
    "supervised": MethodPreset(
        {"n_epochs": 3, "learning_rate_multiplier": 1.0},
        5e-4,
        lambda numbers: {"kind": "sft"},
        lambda row: not row.is_preference,
        "The method `supervised` needs rows with `messages`; for pairs, choose the method `dpo`.",
    ),
    "dpo": MethodPreset(
        {"n_epochs": 1, "learning_rate_multiplier": 1.0, "beta": 0.1},
        5e-5,
        lambda numbers: {"kind": "dpo", "beta": numbers["beta"]},
        lambda row: row.rejected is not None,
        "The method `dpo` needs rows with `input`, `preferred_output` and `non_preferred_output`.",
    ),
    "reinforcement": MethodPreset(
        {
            "n_epochs": 3,
            "learning_rate_multiplier": 1.0,
            "compute_multiplier": 1.0,
            "eval_interval": 0,
            "eval_samples": 1,
            "reasoning_effort": "default",
        },
        1e-4,
        lambda numbers: {
            "kind": "grpo",
            "num_generations": max(2, round(_NUM_GENERATIONS * numbers["compute_multiplier"])),
            "num_generations_eval": numbers["eval_samples"],
            "reward": reward_from_grader(numbers["grader"]),
        },
        lambda row: bool(row.question) and not row.is_preference,
        "The method `reinforcement` needs rows with `messages` that end with a user message.",
    ),
}


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The files and settings of a job; hyperparameters may still be `auto`.

    `file_ids` maps paths to ids, so that messages name what the client knows.
    """

    base: str
    train: Path
    validation: Path | None
    requested: dict[str, Any]
    seed: int
    file_ids: dict[str, str]
    method: str = "supervised"


def recipe_for_job(spec: JobSpec) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of a job, and its hyperparameters as numbers.

    Raises BadFile for rows that cannot be trained on.
    """
    recipe = _build_recipe(spec, {})
    try:
        split = load(recipe, answered=spec.method != "reinforcement").split
    except BurnishError as error:
        raise BadFile(
            *_error_with_file_ids(error, spec), param=_param_at_fault(str(error), spec)
        ) from error
    _check_row_count(len(split.train), MIN_ROWS, "training_file")
    if spec.validation:
        _check_row_count(len(split.validation), 1, "validation_file")
    base = find_model(spec.base)
    tokenizer = load_tokenizer(base)
    rows = (*split.train, *split.validation)
    _check_row_shapes(rows, spec)
    if spec.method == "reinforcement":
        _check_rows_gradable(rows, spec)
        rows = tuple(map(without_answer, rows))
    if errors := audit(rows, tokenizer, base.context_length):
        first = errors[0]
        raise BadFile(
            *_replace_paths(first.summary, first.fix, spec), param=_param_at_fault(first.file, spec)
        )
    sides = [side for row in rows for side in row.sides]
    parts = [part for side in sides for part in split_as_served(tokenizer, side)]
    longest = max(len(encode_row(tokenizer, part, _NO_LIMIT).ids) for part in parts)
    chosen = resolve_hyperparameters(spec.requested, len(split.train), spec.method)
    numbers = {**spec.requested, **chosen}
    return _build_recipe(
        spec, _train_settings(numbers, len(split.train), longest, spec.method)
    ), chosen


def _check_row_shapes(rows: Sequence[Row], spec: JobSpec) -> None:
    """Raise BadFile for rows of the wrong shape for the method."""
    method = METHODS[spec.method]
    rejected = [row for row in rows if not method.accepts(row)]
    if rejected:
        file = rejected[0].file
        lines = describe_rows(file, [row.line for row in rejected if row.file == file])
        message = f"{lines}: the row does not have the shape that the method needs."
        raise BadFile(
            *_replace_paths(message, method.hint, spec), param=_param_at_fault(file, spec)
        )


def _check_rows_gradable(rows: Sequence[Row], spec: JobSpec) -> None:
    """Raise BadFile for rows that the grader cannot score."""
    reward = _REWARD_ADAPTER.validate_python(reward_from_grader(spec.requested["grader"]))
    parts = tuple(reward.graders.values()) if reward.kind == "multi" else (reward,)
    if any(part.kind == "python" for part in parts):  # its source was loaded with the request
        functions = [reward_function(part, Task()) for part in parts if part.kind != "python"]
    else:
        functions = [reward_function(reward, Task())]
    for row, function in product(rows, functions):
        try:
            function(row, "")
        except BadRecipe as error:
            raise BadFile(
                *_error_with_file_ids(error, spec), param=_param_at_fault(row.file, spec)
            ) from error


def _check_row_count(rows: int, least: int, param: str) -> None:
    if rows < least:
        name = param.replace("_", " ")
        raise BadFile(
            f"The {name} has {rows} example(s), but must have at least {least} examples.",
            "Add more rows.",
            param,
        )


def resolve_hyperparameters(
    request: dict[str, Any], rows: int, method: str = "supervised"
) -> dict[str, Any]:
    """Resolve `auto` to numbers; the batch size gives an epoch at least ten steps."""
    batch = max(1, min(_MAX_BATCH, rows // MIN_ROWS))
    defaults = {**METHODS[method].defaults, "batch_size": batch}
    if "eval_interval" in defaults:
        defaults["eval_interval"] = max(1, math.ceil(rows / batch / 2))
    return {
        name: default if request.get(name, "auto") == "auto" else request[name]
        for name, default in defaults.items()
    }


def _train_settings(
    numbers: dict[str, Any], rows: int, max_new_tokens: int, method: str
) -> dict[str, Any]:
    epoch = math.ceil(rows / numbers["batch_size"])
    return {
        "epochs": numbers["n_epochs"],
        "batch_size": numbers["batch_size"],
        "learning_rate": METHODS[method].learning_rate * numbers["learning_rate_multiplier"],
        "objective": METHODS[method].objective(numbers),
        "max_length": max(max_new_tokens, 8),
        "evaluate_every": numbers.get("eval_interval", 0),
        "keep_every": epoch,
        # The client chooses the number of epochs: no early stopping.
        "patience": 0,
    }


def _build_recipe(spec: JobSpec, settings: dict[str, Any]) -> Recipe:
    data = {"train": [str(spec.train)], "validation_share": 0, "test_share": 0}
    if spec.validation:
        data["validation"] = [str(spec.validation)]
    return make_recipe(
        {
            "model": {"name": spec.base},
            "data": data,
            "train": {"seed": spec.seed, **settings},
        }
    )


def _error_with_file_ids(error: BurnishError, spec: JobSpec) -> tuple[str, str]:
    return _replace_paths(error.what, error.fix.partition("\nAll findings")[0], spec)


def _replace_paths(what: str, fix: str, spec: JobSpec) -> tuple[str, str]:
    """Replace the paths of files in a message by their ids."""
    for path, file_id in spec.file_ids.items():
        what, fix = what.replace(path, file_id), fix.replace(path, file_id)
    return what, fix


def _param_at_fault(text: str, spec: JobSpec) -> str:
    validation = spec.validation and str(spec.validation) in text
    return "validation_file" if validation else "training_file"
