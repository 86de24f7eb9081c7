"""Recipe keys that have a new name; the old one is read for one release, with a note.

The one place that knows old spellings: it works on plain values, before they are validated, so a
recipe file, `--set`, the recipe of an earlier run and that of a stored job are all read alike.
"""

from collections.abc import Mapping
from typing import Any

from burnish.core.errors import BadRecipe
from burnish.core.progress import say

#: Old key → new key, by their dotted paths; a section's rename holds for all that is in it.
RENAMED_KEYS = {
    "distil": "distill",
    "distill.thoughts": "distill.reasoning",
    "distill.pieces": "distill.vocab_size",
    "distill.grow": "distill.self_instruct",
    "distill.evolve": "distill.evol_instruct",
    "train.warmup_share": "train.warmup_ratio",
    "train.objective.answers": "train.objective.num_generations",
    "train.objective.validation_answers": "train.objective.num_generations_eval",
    "train.objective.updates": "train.objective.num_iterations",
    "train.objective.clip": "train.objective.epsilon",
    "train.objective.clip_high": "train.objective.epsilon_high",
    "train.method.ranks": "train.method.rank_pattern",
    "train.method.start": "train.method.init_from",
    "train.method.on": "train.method.stack_on",
    "train.method.tokens": "train.method.num_virtual_tokens",
}
#: (key, old value) → new value.
RENAMED_VALUES = {("train.objective.kind", "distil"): "distill"}
#: A field whose keys are dotted keys of the recipe themselves.
_KEYED_BY_PATH = "search.space"

_noted: set[str] = set()


def current_key(key: str) -> str:
    """Return the dotted `key` with its renamed parts by their new names."""
    path = ""
    for part in key.split("."):
        path = f"{path}.{part}" if path else part
        path = RENAMED_KEYS.get(path, path)
    return path


def current_names(
    values: Mapping[str, Any], source: str, prefix: str = "", noted: bool = True
) -> dict[str, Any]:
    """Return the values of a recipe, or of its part at the key `prefix`, by their new names.

    `noted` says once per process which new names to use. Raises BadRecipe where a key stands under
    its old and its new name at once.
    """
    current: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):  # YAML's numbers and dates; validation refuses them
            current[name] = value
            continue
        path = name if prefix == f"{_KEYED_BY_PATH}." else f"{prefix}{name}"
        new = current_key(path)
        key = new.removeprefix(prefix)
        if key in current or (key != name and key in values):
            raise BadRecipe(*both_given(source, path, new))
        if key != name and noted:
            note(f"`{path}` is now `{new}`")
        current[key] = current_value(new, value, source, noted)
    return current


def current_value(key: str, value: object, source: str, noted: bool = True) -> object:
    """Return the value of the dotted `key` as it is spelt now, whatever it holds."""
    if isinstance(value, Mapping):
        return current_names(value, source, f"{key}.", noted)
    for spelt in (key, f"{key}.kind"):  # `objective: distil` is short for `{kind: distil}`
        if isinstance(value, str) and (spelt, value) in RENAMED_VALUES:
            new = RENAMED_VALUES[spelt, value]
            if noted:
                note(f"`{key}: {value}` is now `{key}: {new}`")
            return new
    return value


def both_given(source: str, old: str, new: str) -> tuple[str, str]:
    """Return what is wrong where a key stands under both of its names, and the fix."""
    return f"{source}: `{old}` is the old name of `{new}`, and both are given.", f"Keep `{new}`."


def note(change: str) -> None:
    """Say once per process that something has a new name."""
    if change not in _noted:
        _noted.add(change)
        say(f"{change}; the old name is read until the next release.")
