"""Other tools' configuration files, read strictly: each key becomes a setting of the recipe,
changes nothing here and says so, or is refused by name."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from burnish.core.errors import BadRecipe
from burnish.core.recipe.train import Train

#: transformers' names of schedules and optimizers, and the recipe's.
SCHEDULES = (
    ("linear", "linear"), ("cosine", "cosine"), ("constant", "constant"),
    ("constant_with_warmup", "constant"),
)  # fmt: skip
ADAMW = (
    ("adamw_torch", None), ("adamw_torch_fused", None), ("adamw_hf", None), ("adamw_8bit", None),
    ("adamw_bnb_8bit", None), ("paged_adamw_8bit", None), ("paged_adamw_32bit", None),
)  # fmt: skip
#: How the files of rows end that these tools read, and burnish too.
SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True, slots=True)
class KeyRule:
    """What a key comes to: the recipe's `field`; or nothing, why being in `ignored`; `values` are
    the only ones that can be honoured and what each becomes (None: nothing to set), `refused`
    says why no other. A key with none of them is read by whoever knows the file."""

    field: str = ""
    ignored: str = ""
    values: Sequence[tuple[Any, Any]] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ImportedConfig:
    """What a file comes to: changes of a recipe, and a note on whatever is otherwise here."""

    changes: tuple[str, ...]
    notes: tuple[str, ...]

    def dependent(self, train: Train) -> list[str]:
        """The changes that depend on how many processes train, and how long.

        Raises BadRecipe if the recipe doesn't say.
        """
        return []


@dataclass(frozen=True, slots=True)
class Translation:
    """Fields of the recipe with their values, and a note on whatever changes nothing here."""

    fields: dict[str, Any]
    notes: list[str]


def translate(
    path: Path, values: Mapping[str, Any], keys: Mapping[str, KeyRule], default: Any
) -> Translation:
    """What the keys of a file (dotted, see `leaves`) come to. One whose value is `unsaid` stays as
    the recipe has it.

    Raises BadRecipe and names every key that isn't known or can't be honoured.
    """
    found, refused = Translation({}, []), []
    for name, value in values.items():
        key = _find_rule(name, keys)
        if key is None:
            near = difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
            refused.append(f"{name} isn't known" + (f"; {near[0]} is" if near else ""))
        elif key.ignored:
            found.notes.append(f"{name} changes nothing here: {key.ignored}")
        elif _equal_values(default, value):
            written = json.dumps(value).strip('"')
            found.notes.append(f"{name} is {written}: it stays as the recipe has it")
        elif not key.values:
            found.fields.update({key.field: value} if key.field else {})
        elif chosen := [here for there, here in key.values if _equal_values(there, value)]:
            found.fields.update({key.field: chosen[0]} if chosen[0] is not None else {})
        else:
            refused.append(f"{name}: {json.dumps(value)} can't be honoured: {key.refused}")
    if refused:
        raise BadRecipe(f"{path}:\n" + "\n".join(refused), "Take them out, or change their values.")
    return found


def read_yaml(path: Path) -> list[Any]:
    """The documents of a YAML or JSON file. Raises BadRecipe if it can't be read."""
    try:
        return [*yaml.safe_load_all(path.read_text(encoding="utf-8-sig"))]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadRecipe(f"{path} can't be read: {error}", "Name a YAML or JSON file.") from error


def read_single_yaml(path: Path) -> Any:
    """The only document of such a file; None if it is empty. Raises BadRecipe for several."""
    found = read_yaml(path)
    if len(found) > 1:
        raise BadRecipe(f"{path} has {len(found)} documents.", "Leave one of them in it.")
    return found[0] if found else None


def as_changes(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields as changes of a recipe."""
    return tuple(f"{field}={json.dumps(value)}" for field, value in fields.items())


def precision_notes(dtype: Any, optimizer: Any) -> Iterator[str]:
    """Notes on numbers of fewer bits than burnish has for them."""
    if dtype in ("fp16", "float16"):
        yield f"{dtype} overflows without scaled losses: model.dtype is chosen by the hardware"
    if "8bit" in str(optimizer):
        yield "the optimizer's moments have all their bits: --set train.optimizer=adamw_8bit"


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a file by dotted keys."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _equal_values(there: Any, value: Any) -> bool:
    """Equal, and a truth value is no number."""
    return bool(there == value) and isinstance(there, bool) == isinstance(value, bool)


def _find_rule(name: str, keys: Mapping[str, KeyRule]) -> KeyRule | None:
    """The key's own entry, or that of the section that it is in."""
    while name:
        if name in keys:
            return keys[name]
        name = name.rpartition(".")[0]
    return None
