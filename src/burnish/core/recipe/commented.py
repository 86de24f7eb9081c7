"""A recipe to begin with: every field with its description, commented out at its default.

It is generated from the recipe's own records, so it says what this version reads. Prose begins
with `##`; a field is set by removing the `# ` before it.
"""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from burnish.core.recipe.recipe import Recipe

#: The sections that a first `burnish compare` looks at; of the others their purpose is listed.
FIRST = ("task", "model", "data", "train", "evaluate", "compare")

_WIDTH = 100


def commented_recipe(values: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a recipe as YAML text that sets `values` (section → field → value) and nothing else.

    The fields of the sections `FIRST` are spelt out in comments.
    """
    parts = ["\n".join(_section(name, values.get(name, {}))) for name in FIRST]
    others = [
        f"##   {name}: {field.description}"
        for name, field in Recipe.model_fields.items()
        if name not in FIRST
    ]
    end = "## Other sections; `burnish recipe` prints all fields of all sections:"
    return "\n\n".join([*parts, "\n".join([end, *others])]) + "\n"


def _section(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a section: `values` are set, all else is commented out."""
    field = Recipe.model_fields[name]
    yield from _prose(field, "")
    yield f"{name}:"
    section = field.get_default(call_default_factory=True)
    for key, inner in type(section).model_fields.items():
        yield from _prose(inner, "  ")
        mark = "" if key in values else "# "
        lines = _lines(key, values[key]) if key in values else _default(section, key)
        yield from (f"  {mark}{line}" for line in lines)


def _default(section: BaseModel, key: str) -> Iterator[str]:
    """The lines of a field at its default, those of a nested record with their prose."""
    value = getattr(section, key)
    if not isinstance(value, BaseModel):
        yield from _lines(key, section.model_dump(mode="json")[key])
        return
    fields = type(value).model_fields
    yield f"{key}:"
    # The kind comes first, and the line above has said which kinds there are.
    for inner in sorted(fields, key=lambda name: name != "kind"):
        if inner != "kind":
            yield from _prose(fields[inner], "  ")
        yield from (f"  {line}" for line in _default(value, inner))


def _lines(key: str, value: Any) -> list[str]:
    return yaml.safe_dump({key: value}, width=10**6, allow_unicode=True).splitlines()


def _prose(field: FieldInfo, indent: str) -> list[str]:
    """What a field is for and what it may be, as comments."""
    text = field.description or ""
    if choices := _choices(field.annotation):
        text += f" One of: {', '.join(choices)}."
    mark = f"{indent}## "
    return textwrap.wrap(
        text.strip(),
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=mark,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _choices(annotation: Any) -> list[str]:
    """The names that a field takes: its literals, or the kinds of record that it can be."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    inner = get_args(annotation)
    kinds = [arm.model_fields["kind"].default for arm in inner if _has_kind(arm)]
    return kinds or [choice for arm in inner for choice in _choices(arm)]


def _has_kind(annotation: Any) -> bool:
    is_record = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return is_record and "kind" in annotation.model_fields
