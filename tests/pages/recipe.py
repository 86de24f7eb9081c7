"""The reference of the recipe: a page a section, from the pydantic models."""

import inspect
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from burnish.core.recipe.recipe import Recipe
from tests.pages import NOTE, table, text_of

FOLDER = "docs/reference/recipe"
#: Fields whose choices are so many that they have a page of their own.
OWN_PAGE = {"objective": "objectives", "method": "methods", "reward": "rewards"}
#: Sections that are short and share a page.
SHARED = {"task": "data", "model": "data", "rag": "retrieval"}


def recipe_pages() -> dict[str, str]:
    """Path → text: an index and the pages of all sections."""
    parts: dict[str, list[str]] = {}
    seen: set[type[BaseModel]] = set()
    for name, field in Recipe.model_fields.items():
        for page, path, model in _models(name, field, SHARED.get(name, name), seen):
            parts.setdefault(page, []).extend(_section(path, model))
    pages = {
        f"{FOLDER}/{page}.md": text_of(f"# Recipe: {page}", "", NOTE, *lines)
        for page, lines in parts.items()
    }
    return {f"{FOLDER}/index.md": _index(parts), **pages}


def field_paths() -> set[str]:
    """Every path of a field in a recipe, such as `train.method.rank`."""
    return set(_paths("", Recipe))


def _paths(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in _inside(field.annotation):
            if inner is not model:  # a grader may hold graders
                yield from _paths(f"{prefix}{name}.", inner)


def _index(parts: dict[str, list[str]]) -> str:
    rows = [
        (f"[`{name}`]({SHARED.get(name, name)}.md#{name})", field.description)
        for name, field in Recipe.model_fields.items()
    ]
    extra = [f"[{page}]({page}.md)" for page in OWN_PAGE.values() if page in parts]
    return text_of(
        "# Recipe",
        "",
        NOTE,
        "",
        "A recipe is one YAML file. Every field has a default: a recipe says only what differs.",
        "`burnish recipe my.yaml` prints it with every field spelled out,",
        "`burnish recipe --schema` prints the JSON Schema ([burnish.schema.json]"
        "(../burnish.schema.json)).",
        "Put `# yaml-language-server: $schema=...` on the first line and your editor completes it.",
        "`--set section.field=value` overrides any field.",
        "",
        *table(["section", "what it says"], rows),
        "",
        f"The choices of `train.objective`, `train.method` and rewards: {', '.join(extra)}.",
    )


def _models(
    path: str, field: FieldInfo, page: str, seen: set[type[BaseModel]]
) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """(page, path in the recipe, model) of a field and of all below it, each model once."""
    found = [model for model in _inside(field.annotation) if model not in seen]
    seen.update(found)
    for model in found:
        kind = model.model_fields.get("kind")
        title = str(kind.default) if kind and "." in path else path
        yield page, title, model
        for name, inner in model.model_fields.items():
            yield from _models(f"{path}.{name}", inner, OWN_PAGE.get(name, page), seen)


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)


def _section(title: str, model: type[BaseModel]) -> list[str]:
    rows = [
        (f"`{name}`", _default(field), _text(field)) for name, field in model.model_fields.items()
    ]
    about = inspect.cleandoc(model.__doc__ or "").split("\n")
    return ["", f"## {title}", "", *about, "", *table(["field", "default", "what it is"], rows)]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = getattr(value, "kind", None) or "its own defaults"
    return f"`{value}`" if value not in (None, "") else ""


def _text(field: FieldInfo) -> str:
    return (field.description or "Chooses this kind.").replace("|", "\\|")
