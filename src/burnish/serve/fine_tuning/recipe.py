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
from burnish.core.records import Row, place_of
from burnish.data.load import load
from burnish.evaluate.rewards import worth_of
from burnish.models.chat_template import as_served, encode_row
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model
from burnish.models.token_audit import audit
from burnish.train.batching.examples import questioned

#: The hosted API's least number of rows.
LEAST_ROWS = 10
_MOST_BATCH = 16
#: Answers drawn to a question, times `compute_multiplier`.
_ANSWERS = 8
_UNCUT = 1 << 30
_REWARD: TypeAdapter[Any] = TypeAdapter(Annotated[Reward, Field(discriminator="kind")])


class BadFile(BurnishError):
    """A training or validation file cannot be trained on; `param` says which of the two."""

    def __init__(self, what: str, fix: str = "", param: str = "training_file") -> None:
        super().__init__(what, fix)
        self.param = param


@dataclass(frozen=True, slots=True)
class Method:
    """One way to learn: what `auto` means, the learning rate that a multiplier is of, which rows.

    `usual` has the numbers that the client may leave to us, beside the size of a batch.
    """

    usual: Mapping[str, Any]
    learning_rate: float
    objective: Callable[[Mapping[str, Any]], dict[str, Any]]
    takes: Callable[[Row], bool]
    wanted: str


def reward_of(grader: Mapping[str, Any]) -> dict[str, Any]:
    """A grader as clients write it → the recipe's reward."""
    found = {("kind" if name == "type" else name): given for name, given in grader.items()}
    if "graders" in found:
        several = found["graders"]
        one = {several["name"]: several} if "type" in several else several
        found["graders"] = {name: reward_of(inner) for name, inner in one.items()}
    # The sandbox has one image, whatever tag a grader names.
    return {name: given for name, given in found.items() if name not in ("name", "image_tag")}


METHODS = {
    "supervised": Method(
        {"n_epochs": 3, "learning_rate_multiplier": 1.0},
        5e-4,
        lambda numbers: {"kind": "sft"},
        lambda row: not row.is_preference,
        "The method `supervised` learns whole answers: write `messages`, or name the method `dpo`.",
    ),
    "dpo": Method(
        {"n_epochs": 1, "learning_rate_multiplier": 1.0, "beta": 0.1},
        5e-5,
        lambda numbers: {"kind": "dpo", "beta": numbers["beta"]},
        lambda row: row.rejected is not None,
        "The method `dpo` learns from `input`, `preferred_output` and `non_preferred_output`.",
    ),
    "reinforcement": Method(
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
            "answers": max(2, round(_ANSWERS * numbers["compute_multiplier"])),
            "validation_answers": numbers["eval_samples"],
            "reward": reward_of(numbers["grader"]),
        },
        lambda row: bool(row.question) and not row.is_preference,
        "The method `reinforcement` learns from `messages` that end with the user's.",
    ),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a job is to be trained on and how; `auto` is still among the hyperparameters.

    `files` has the file ids by path, so that messages name what the client knows.
    """

    base: str
    train: Path
    validation: Path | None
    asked: dict[str, Any]
    seed: int
    files: dict[str, str]
    method: str = "supervised"


def plan(wish: Wish) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that a wish means, and its hyperparameters as numbers.

    Raises BadFile for rows that cannot be trained on.
    """
    recipe = _recipe(wish, {})
    try:
        split = load(recipe, answered=wish.method != "reinforcement").split
    except BurnishError as error:
        raise BadFile(*_named(error, wish), param=_blamed(str(error), wish)) from error
    _require(len(split.train), LEAST_ROWS, "training_file")
    if wish.validation:
        _require(len(split.validation), 1, "validation_file")
    base = find_model(wish.base)
    tokenizer = load_tokenizer(base)
    everything = (*split.train, *split.validation)
    _require_shape(everything, wish)
    if wish.method == "reinforcement":
        _require_worth(everything, wish)
        everything = tuple(map(questioned, everything))
    if errors := audit(everything, tokenizer, base.context_length):
        first = errors[0]
        raise BadFile(*_shown(first.said, first.fix, wish), param=_blamed(first.file, wish))
    sides = [side for row in everything for side in row.sides]
    parts = [part for side in sides for part in as_served(tokenizer, side)]
    longest = max(len(encode_row(tokenizer, part, _UNCUT).ids) for part in parts)
    chosen = resolved(wish.asked, len(split.train), wish.method)
    numbers = {**wish.asked, **chosen}
    return _recipe(wish, _settings(numbers, len(split.train), longest, wish.method)), chosen


def _require_shape(rows: Sequence[Row], wish: Wish) -> None:
    """Raise BadFile for rows that the method cannot learn from."""
    method = METHODS[wish.method]
    wrong = [row for row in rows if not method.takes(row)]
    if wrong:
        own = [row for row in wrong if row.file == wrong[0].file]
        place = place_of(own[0].file, [row.line for row in own])
        said = f"{place}: the row isn't of the shape that the method needs."
        raise BadFile(*_shown(said, method.wanted, wish), param=_blamed(own[0].file, wish))


def _require_worth(rows: Sequence[Row], wish: Wish) -> None:
    """Raise BadFile for rows that the grader cannot be asked about."""
    reward = _REWARD.validate_python(reward_of(wish.asked["grader"]))
    several = tuple(reward.graders.values()) if reward.kind == "multi" else (reward,)
    if any(one.kind == "python" for one in several):  # its source was tried when the job was made
        asked = [worth_of(one, Task()) for one in several if one.kind != "python"]
    else:
        asked = [worth_of(reward, Task())]
    for row, worth in product(rows, asked):
        try:
            worth(row, "")
        except BadRecipe as error:
            raise BadFile(*_named(error, wish), param=_blamed(row.file, wish)) from error


def _require(rows: int, least: int, param: str) -> None:
    if rows < least:
        named = param.replace("_", " ")
        raise BadFile(
            f"The {named} has {rows} example(s), but must have at least {least} examples.",
            "Add more rows.",
            param,
        )


def resolved(asked: dict[str, Any], rows: int, method: str = "supervised") -> dict[str, Any]:
    """Hyperparameters with `auto` as numbers: at least ten steps an epoch."""
    batch = max(1, min(_MOST_BATCH, rows // LEAST_ROWS))
    usual = {**METHODS[method].usual, "batch_size": batch}
    if "eval_interval" in usual:
        usual["eval_interval"] = max(1, math.ceil(rows / batch / 2))
    return {
        name: number if asked.get(name, "auto") == "auto" else asked[name]
        for name, number in usual.items()
    }


def _settings(numbers: dict[str, Any], rows: int, longest: int, method: str) -> dict[str, Any]:
    epoch = math.ceil(rows / numbers["batch_size"])
    return {
        "epochs": numbers["n_epochs"],
        "batch_size": numbers["batch_size"],
        "learning_rate": METHODS[method].learning_rate * numbers["learning_rate_multiplier"],
        "objective": METHODS[method].objective(numbers),
        "max_length": max(longest, 8),
        "evaluate_every": numbers.get("eval_interval", 0),
        "keep_every": epoch,
        # The number of epochs is the client's to choose.
        "patience": 0,
    }


def _recipe(wish: Wish, settings: dict[str, Any]) -> Recipe:
    data = {"train": [str(wish.train)], "validation_share": 0, "test_share": 0}
    if wish.validation:
        data["validation"] = [str(wish.validation)]
    return make_recipe(
        {
            "model": {"name": wish.base},
            "data": data,
            "train": {"seed": wish.seed, **settings},
        }
    )


def _named(error: BurnishError, wish: Wish) -> tuple[str, str]:
    return _shown(error.what, error.fix.partition("\nAll findings")[0], wish)


def _shown(what: str, fix: str, wish: Wish) -> tuple[str, str]:
    """A message with the ids of files where it has their paths."""
    for path, name in wish.files.items():
        what, fix = what.replace(path, name), fix.replace(path, name)
    return what, fix


def _blamed(text: str, wish: Wish) -> str:
    validation = wish.validation and str(wish.validation) in text
    return "validation_file" if validation else "training_file"
