"""From what a client asks to a recipe: files checked, `auto` turned into numbers.

Problems of the request are answered at once; problems of the rows end the job, with their numbers.
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
#: Answers drawn to a question, times `compute_multiplier`.
_NUM_GENERATIONS = 8
_NO_LIMIT = 1 << 30
_REWARD_ADAPTER: TypeAdapter[Any] = TypeAdapter(Annotated[Reward, Field(discriminator="kind")])


class BadFile(BurnishError):
    """A training or validation file cannot be trained on; `param` says which of the two."""

    def __init__(self, what: str, fix: str = "", param: str = "training_file") -> None:
        super().__init__(what, fix)
        self.param = param


@dataclass(frozen=True, slots=True)
class MethodPreset:
    """One way to learn: what `auto` means, the learning rate that a multiplier is of, which rows.

    `usual` has the numbers that the client may leave to us, beside the size of a batch.
    """

    defaults: Mapping[str, Any]
    learning_rate: float
    objective: Callable[[Mapping[str, Any]], dict[str, Any]]
    accepts: Callable[[Row], bool]
    hint: str


def reward_from_grader(grader: Mapping[str, Any]) -> dict[str, Any]:
    """A grader as clients write it → the recipe's reward."""
    found = {("kind" if name == "type" else name): given for name, given in grader.items()}
    if "graders" in found:
        several = found["graders"]
        one = {several["name"]: several} if "type" in several else several
        found["graders"] = {name: reward_from_grader(inner) for name, inner in one.items()}
    # The sandbox has one image, whatever tag a grader names.
    return {name: given for name, given in found.items() if name not in ("name", "image_tag")}


METHODS = {
    "supervised": MethodPreset(
        {"n_epochs": 3, "learning_rate_multiplier": 1.0},
        5e-4,
        lambda numbers: {"kind": "sft"},
        lambda row: not row.is_preference,
        "The method `supervised` learns whole answers: write `messages`, or name the method `dpo`.",
    ),
    "dpo": MethodPreset(
        {"n_epochs": 1, "learning_rate_multiplier": 1.0, "beta": 0.1},
        5e-5,
        lambda numbers: {"kind": "dpo", "beta": numbers["beta"]},
        lambda row: row.rejected is not None,
        "The method `dpo` learns from `input`, `preferred_output` and `non_preferred_output`.",
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
            "answers": max(2, round(_NUM_GENERATIONS * numbers["compute_multiplier"])),
            "validation_answers": numbers["eval_samples"],
            "reward": reward_from_grader(numbers["grader"]),
        },
        lambda row: bool(row.question) and not row.is_preference,
        "The method `reinforcement` learns from `messages` that end with the user's.",
    ),
}


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job is to be trained on and how; `auto` is still among the hyperparameters.

    `files` has the file ids by path, so that messages name what the client knows.
    """

    base: str
    train: Path
    validation: Path | None
    requested: dict[str, Any]
    seed: int
    file_ids: dict[str, str]
    method: str = "supervised"


def recipe_for_job(spec: JobSpec) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that a wish means, and its hyperparameters as numbers.

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
    everything = (*split.train, *split.validation)
    _check_row_shapes(everything, spec)
    if spec.method == "reinforcement":
        _check_rows_gradable(everything, spec)
        everything = tuple(map(without_answer, everything))
    if errors := audit(everything, tokenizer, base.context_length):
        first = errors[0]
        raise BadFile(
            *_replace_paths(first.summary, first.fix, spec), param=_param_at_fault(first.file, spec)
        )
    sides = [side for row in everything for side in row.sides]
    parts = [part for side in sides for part in split_as_served(tokenizer, side)]
    longest = max(len(encode_row(tokenizer, part, _NO_LIMIT).ids) for part in parts)
    chosen = resolve_hyperparameters(spec.requested, len(split.train), spec.method)
    numbers = {**spec.requested, **chosen}
    return _build_recipe(
        spec, _train_settings(numbers, len(split.train), longest, spec.method)
    ), chosen


def _check_row_shapes(rows: Sequence[Row], spec: JobSpec) -> None:
    """Raise BadFile for rows that the method cannot learn from."""
    method = METHODS[spec.method]
    wrong = [row for row in rows if not method.accepts(row)]
    if wrong:
        own = [row for row in wrong if row.file == wrong[0].file]
        place = describe_rows(own[0].file, [row.line for row in own])
        said = f"{place}: the row isn't of the shape that the method needs."
        raise BadFile(
            *_replace_paths(said, method.hint, spec), param=_param_at_fault(own[0].file, spec)
        )


def _check_rows_gradable(rows: Sequence[Row], spec: JobSpec) -> None:
    """Raise BadFile for rows that the grader cannot be asked about."""
    reward = _REWARD_ADAPTER.validate_python(reward_from_grader(spec.requested["grader"]))
    several = tuple(reward.graders.values()) if reward.kind == "multi" else (reward,)
    if any(one.kind == "python" for one in several):  # its source was tried when the job was made
        asked = [reward_function(one, Task()) for one in several if one.kind != "python"]
    else:
        asked = [reward_function(reward, Task())]
    for row, worth in product(rows, asked):
        try:
            worth(row, "")
        except BadRecipe as error:
            raise BadFile(
                *_error_with_file_ids(error, spec), param=_param_at_fault(row.file, spec)
            ) from error


def _check_row_count(rows: int, least: int, param: str) -> None:
    if rows < least:
        named = param.replace("_", " ")
        raise BadFile(
            f"The {named} has {rows} example(s), but must have at least {least} examples.",
            "Add more rows.",
            param,
        )


def resolve_hyperparameters(
    request: dict[str, Any], rows: int, method: str = "supervised"
) -> dict[str, Any]:
    """Hyperparameters with `auto` as numbers: at least ten steps an epoch."""
    batch = max(1, min(_MAX_BATCH, rows // MIN_ROWS))
    usual = {**METHODS[method].defaults, "batch_size": batch}
    if "eval_interval" in usual:
        usual["eval_interval"] = max(1, math.ceil(rows / batch / 2))
    return {
        name: number if request.get(name, "auto") == "auto" else request[name]
        for name, number in usual.items()
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
        # The number of epochs is the client's to choose.
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
    """A message with the ids of files where it has their paths."""
    for path, name in spec.file_ids.items():
        what, fix = what.replace(path, name), fix.replace(path, name)
    return what, fix


def _param_at_fault(text: str, spec: JobSpec) -> str:
    validation = spec.validation and str(spec.validation) in text
    return "validation_file" if validation else "training_file"
