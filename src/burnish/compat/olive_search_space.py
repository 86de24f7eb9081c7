"""A search from a file with `search_strategy` and `search_space`, as courses on Olive write it.

Such a file becomes the recipe's `search` section. What the section can't say is refused by name.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from burnish.compat.translate import read_single_yaml
from burnish.core.errors import BadRecipe

STRATEGY, SPACE = "search_strategy", "search_space"
_SAMPLERS = ("random", "tpe")
#: The file's names → the recipe's fields. A field's own name with its dots passes too.
_FIELDS = {
    "learning_rate": "train.learning_rate",
    "batch_size": "train.batch_size",
    "lora_r": "train.method.rank",
    "r": "train.method.rank",
    "lora_alpha": "train.method.alpha",
    "alpha": "train.method.alpha",
    "lora_dropout": "train.method.dropout",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "max_seq_len": "train.max_length",
    "weight_decay": "train.weight_decay",
    "warmup_ratio": "train.warmup_ratio",
    "lr_scheduler_type": "train.schedule",
    "max_grad_norm": "train.max_grad_norm",
}


def recipe_changes(file: Path) -> list[str]:
    """The file as changes to a recipe: `search.trials=20`, ... Raises BadRecipe."""
    content = read_single_yaml(file)
    if not isinstance(content, dict):
        raise BadRecipe(f"{file} has no `{SPACE}`.", f"Write {SPACE}: {{learning_rate: ...}}.")
    section = to_search_section(content)
    return [f"search.{field}={json.dumps(value)}" for field, value in section.items()]


def to_search_section(content: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's `search` that these two keys mean. Raises BadRecipe for what isn't known."""
    _check_keys(content, (STRATEGY, SPACE), "the file")
    space = content.get(SPACE)
    if not isinstance(space, dict) or not space:
        raise BadRecipe(f"There is no `{SPACE}`.", f"Write {SPACE}: {{learning_rate: ...}}.")
    section = _parse_strategy(content.get(STRATEGY) or {})
    section["space"] = {
        _recipe_field(name): _parse_range(name, told) for name, told in space.items()
    }
    if len(section["space"]) < len(space):
        raise BadRecipe(f"`{SPACE}` names one setting twice: {', '.join(space)}.", "Keep one.")
    return section


def _parse_strategy(told: Any) -> dict[str, Any]:
    told = {"type": told} if isinstance(told, str) else told
    if not isinstance(told, dict):
        raise BadRecipe(f"`{STRATEGY}` is {told!r}.", "Write {type: random, num_trials: 20}.")
    _check_keys(told, ("type", "num_trials", "seed"), f"`{STRATEGY}`")
    section: dict[str, Any] = {}
    if "type" in told:
        if told["type"] not in _SAMPLERS:
            raise BadRecipe(
                f"`{STRATEGY}` is of type {told['type']}, which burnish doesn't have.",
                f"It has: {', '.join(_SAMPLERS)}.",
            )
        section["sampler"] = told["type"]
    for name, field in (("num_trials", "trials"), ("seed", "seed")):
        if name in told:
            section[field] = _number(f"{STRATEGY}.{name}", told[name], int)
    return section


def _recipe_field(name: str) -> str:
    if "." in name:
        return name
    if name in _FIELDS:
        return _FIELDS[name]
    near = difflib.get_close_matches(name, _FIELDS, n=1)
    raise BadRecipe(
        f"`{SPACE}`: `{name}` is no setting that a search knows.",
        f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(_FIELDS)}, or train.FIELD.",
    )


def _parse_range(name: str, told: Any) -> Any:
    """One setting's range or list of values, as the recipe's `search.space` holds it."""
    if isinstance(told, list):
        told = {"type": "choice", "values": told}
    kind = str(told.get("type")) if isinstance(told, dict) else ""
    if kind not in _KINDS:
        raise BadRecipe(
            f"`{SPACE}`: `{name}` is {told!r}.",
            "Write {type: float, low: 1e-6, high: 1e-3, log: true}, {type: int, low: 8, high: 64} "
            "or {type: choice, values: [8, 16, 32]}.",
        )
    return _KINDS[kind](f"{SPACE}.{name}", told)


def _parse_choice(place: str, told: Mapping[str, Any]) -> list[Any]:
    _check_keys(told, ("type", "values", "choices"), f"`{place}`")
    values = told.get("values", told.get("choices"))
    if not isinstance(values, list) or not values:
        raise BadRecipe(f"`{place}` has no values.", "Write values: [8, 16, 32].")
    return values


def _range_parser(read: Callable[[Any], int | float]) -> Callable[[str, Mapping[str, Any]], Any]:
    def room(place: str, told: Mapping[str, Any]) -> dict[str, Any]:
        _check_keys(told, ("type", "low", "high", "log"), f"`{place}`")
        ends = {end: _number(f"{place}.{end}", told.get(end), read) for end in ("low", "high")}
        log = told.get("log", False)
        if not isinstance(log, bool):
            raise BadRecipe(f"`{place}.log` is {log!r}.", "Write log: true or log: false.")
        return {**ends, "log": log}

    return room


_KINDS: Mapping[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "float": _range_parser(float),
    "int": _range_parser(int),
    "choice": _parse_choice,
}


def _number(place: str, told: Any, read: Callable[[Any], int | float]) -> int | float:
    """YAML reads `1e-6` as text; people mean the number."""
    try:
        value = read(str(told))
    except ValueError:
        what = "whole number" if read is int else "number"
        raise BadRecipe(f"`{place}` is {told!r}, not a {what}.", "Correct the value.") from None
    return value


def _check_keys(told: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in told:
        if key not in known:
            raise BadRecipe(f"{where}: `{key}` isn't known.", f"Known: {', '.join(known)}.")
