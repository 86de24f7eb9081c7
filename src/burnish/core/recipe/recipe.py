"""One recipe file, `burnish.yaml`: read, override, save, and publish its JSON Schema.

What ran is what was written: an unknown key is an error that names its line and the nearest known
key, and nothing changes after parsing. Relative paths count from the recipe's own folder.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from burnish.core.atomic import write_atomic
from burnish.core.errors import BadRecipe
from burnish.core.recipe.compare import Compare
from burnish.core.recipe.data import Data, Model, Task
from burnish.core.recipe.distill import Distill
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.recipe.export import Export
from burnish.core.recipe.rag import Rag
from burnish.core.recipe.renamed_keys import (
    both_given,
    current_key,
    current_names,
    current_value,
    note,
)
from burnish.core.recipe.search import Search
from burnish.core.recipe.section import Section
from burnish.core.recipe.serve import Serve
from burnish.core.recipe.train import Train

#: Files of these kinds hold rows; who names one where a recipe is wanted has mistaken it.
_TABLES = {".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"}


class Recipe(Section):
    """All that a run needs to know."""

    task: Task = Field(Task(), description="What the model is for.")
    model: Model = Field(Model(), description="The base model.")
    data: Data = Field(Data(), description="Where the rows are and how they are split.")
    train: Train = Field(Train(), description="How the weights move.")
    search: Search = Field(Search(), description="Which settings a search tries.")
    evaluate: Evaluate = Field(Evaluate(), description="How answers are scored.")
    rag: Rag = Field(Rag(), description="Documents to answer from.")
    compare: Compare = Field(Compare(), description="Which routes are measured.")
    distill: Distill = Field(
        Distill(), description="A teacher, and the student that learns from it."
    )
    export: Export = Field(Export(), description="What is shipped, and the gate before it.")
    serve: Serve = Field(Serve(), description="The HTTP server.")

    def save(self, path: Path) -> None:
        """Write the recipe as YAML, every field spelt out."""
        content = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomic(path, content)


def load_recipe(path: Path, changes: Iterable[str] = (), noted: bool = True) -> Recipe:
    """Read a recipe and apply `section.field=value` changes.

    Old names of keys are read too; `noted` says so, for files that a person wrote. Raises BadRecipe
    with file, line and the nearest known key.
    """
    if path.suffix.lower() in _TABLES:
        raise BadRecipe(
            f"{path} is a table of rows, and a recipe is wanted here, a YAML file.",
            f"Name rows as such: --train {path}",
        )
    try:
        source = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{path} cannot be read: {error}", "Name a YAML file.") from error
    try:
        root = yaml.compose(source, Loader=yaml.SafeLoader)
        values = yaml.safe_load(source) or {}
    except yaml.YAMLError as error:
        raise BadRecipe(f"{path} is not YAML: {error}", "Mend the file at that line.") from error
    if not isinstance(values, dict):
        raise BadRecipe(f"{path} is not a mapping of sections.", "Begin it with `task:`.")
    lines = {current_key(key): line for key, line in _lines(root, str(path))}
    current = current_names(values, str(path), noted=noted)
    # A section in which nothing stands but comments.
    empty = {name for name in Recipe.model_fields if current.get(name, "") is None}
    current = {name: value for name, value in current.items() if name not in empty}
    values = _with_changes(current, changes)
    return with_absolute_paths(_parse(values, str(path), lines), path.parent)


def with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its paths made absolute, those that aren't from `folder` on, so that it works
    from any folder once it is saved."""
    judge = _absolute_section(recipe.evaluate.judge, ("human",), folder)
    data = _absolute_section(recipe.data, ("train", "validation", "test"), folder)
    if recipe.data.images:
        data = data.model_copy(update={"images": (folder / recipe.data.images).resolve()})
    sections = {
        "evaluate": recipe.evaluate.model_copy(update={"judge": judge}),
        "data": data,
        "rag": _absolute_section(recipe.rag, ("documents",), folder),
    }
    return recipe.model_copy(update=sections)


def make_recipe(
    values: Mapping[str, Any] | None = None, changes: Iterable[str] = (), noted: bool = True
) -> Recipe:
    """Return a recipe from plain values, for Python callers and for the command line's flags."""
    current = current_names(values or {}, "the recipe", noted=noted)
    return _parse(_with_changes(current, changes), "the recipe", {})


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors that complete and check it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _parse(values: Mapping[str, Any], source: str, lines: Mapping[str, int]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise BadRecipe(*_explain(error, source, lines)) from error


def _explain(error: ValidationError, source: str, lines: Mapping[str, int]) -> tuple[str, str]:
    """Turn pydantic's list into lines that name the place, and the remedies below them."""
    problems, fixes = [], []
    for fault in error.errors():
        parts = [str(part) for part in fault["loc"]]
        place = ".".join(part for part in parts if part not in _KINDS)
        line = next((lines[key] for key in _enclosing_keys(place) if key in lines), None)
        where = f"{source}, line {line}" if line else source
        if fault["type"] == "extra_forbidden":
            known = sorted(_known_keys(parts[:-1]))
            problems.append(f"{where}: there is no key `{place}`.")
            near = difflib.get_close_matches(parts[-1], known, n=1, cutoff=0.5)
            fixes.append(
                f"Did you mean `{near[0]}`?" if near else f"Known keys there: {', '.join(known)}."
            )
        elif fault["type"] == "value_error":
            # A rule of ours: it says itself what is wrong with what.
            problems.append(f"{where}: `{place}`: {fault['ctx']['error']}.")
        else:
            problems.append(f"{where}: `{place}` is {fault['input']!r}: {fault['msg'].lower()}.")
    return "\n".join(problems), "\n".join(fixes) or "Correct the value."


def _known_keys(parts: list[str]) -> set[str]:
    """The keys that the section at `parts` has; a chosen kind's own where there are several."""
    models: list[type[BaseModel]] = [Recipe]
    for part in parts:
        if part in _KINDS:
            models = [model for model in models if model.model_fields["kind"].default == part]
        elif part in models[0].model_fields:  # and not a name that people choose
            models = list(_sections_in(models[0].model_fields[part].annotation))
    return {key for model in models for key in model.model_fields}


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)


def recipe_sections() -> list[type[BaseModel]]:
    """Every record that a recipe is made of, the root first; tests and docs walk it."""
    found: list[type[BaseModel]] = [Recipe]
    for model in found:
        for field in model.model_fields.values():
            found.extend(s for s in _sections_in(field.annotation) if s not in found)
    return found


_KINDS = {
    section.model_fields["kind"].default
    for section in recipe_sections()
    if "kind" in section.model_fields
} - {"auto"}


def _lines(node: yaml.Node | None, source: str, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted key → line number (from 1). Raises BadRecipe for a key that stands twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            raise BadRecipe(
                f"{source}, line {line}: `{prefix}{key.value}` stands already on line "
                f"{seen[key.value]}.",
                "Keep one of them.",
            )
        seen[key.value] = line
        yield f"{prefix}{key.value}", line
        yield from _lines(value, source, f"{prefix}{key.value}.")


def _enclosing_keys(place: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`: the nearest enclosing key whose line is known."""
    while place:
        yield place
        place = place.rpartition(".")[0]


def _with_changes(values: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=value` changes; values are read as YAML, so numbers and lists work."""
    changed: dict[str, Any] = json.loads(json.dumps(values, default=str))
    spellings: dict[str, str] = {}
    for change in changes:
        key, value = _parse_change(change, spellings)
        *sections, field = key.split(".")
        section = changed
        for name in sections:
            inner = section.get(name)
            if isinstance(inner, str):
                inner = {"kind": inner}
            section[name] = inner if isinstance(inner, dict) else {}
            section = section[name]
        section[field] = value
    return changed


def _parse_change(change: str, spellings: dict[str, str]) -> tuple[str, object]:
    """Return the key of a change by its new name, and the value; `spellings` are those so far."""
    key, equals, text = change.partition("=")
    key = key.strip()
    if not equals or not key:
        raise BadRecipe(f"`--set {change}` has no `=`.", "Write --set section.field=value.")
    try:
        value = yaml.load(text, Loader=_ScalarLoader)
    except yaml.YAMLError as error:
        raise BadRecipe(f"`--set {change}`: the value cannot be read.") from error
    new = current_key(key)
    if spellings.setdefault(new, key) != key:
        raise BadRecipe(*both_given("--set", spellings[new] if key == new else key, new))
    if new != key:
        note(f"`{key}` is now `{new}`")
    return new, current_value(new, value, f"--set {key}")


class _ScalarLoader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; people mean the number."""


_ScalarLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _absolute_section(section: Section, fields: Iterable[str], folder: Path) -> Section:
    """Make the paths of a section absolute."""
    return section.model_copy(
        update={
            name: tuple((folder / path).resolve() for path in getattr(section, name))
            for name in fields
        }
    )
