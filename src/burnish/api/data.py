"""Data, models and runs of this machine: `check`, `pull`, `models`, `runs`, `recipe`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from burnish.api.inputs import Source, resolve
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe, load_recipe, make_recipe, recipe_schema
from burnish.core.records import Finding
from burnish.core.runs import Run, list_runs

if TYPE_CHECKING:
    from burnish.models.local_models import LocalModel


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found; `ok` is false if there is an error among the findings."""

    findings: tuple[Finding, ...]
    rows: int

    @property
    def ok(self) -> bool:
        """Whether training may begin."""
        return not any(finding.severity == "error" for finding in self.findings)


def check(
    files: Sequence[Source],
    model: str | None = None,
    changes: Iterable[str] = (),
    refreeze: bool = False,
) -> CheckReport:
    """Check data files, or all files of a recipe; with `model`, the tokens too.

    Several files are taken as splits that must not share rows. `refreeze` accepts the recipe's test
    split as it is now; figures measured before can't be compared any more. Raises BadRecipe,
    NotFound.
    """
    from burnish.data.check import check as check_rows
    from burnish.data.infer_task import infer_task
    from burnish.data.read import read_files

    paths = [Path(file) for file in files]
    if refreeze:
        from burnish.data.frozen_split import thaw

        thaw(resolve(paths[0]).data)
    if len(paths) == 1 and paths[0].suffix in (".yaml", ".yml"):
        recipe = resolve(paths[0], model=model, changes=changes)
        paths = [*recipe.data.train, *recipe.data.validation, *recipe.data.test]
        model = recipe.model.name
    else:
        recipe = resolve(train=paths, changes=changes)
    result = read_files(paths, recipe.data, recipe.task)
    rows, findings = result.rows, check_rows(result, recipe.data.near_duplicate)
    # An encoder reads texts as they are: no template, and no token of an answer.
    if model and not recipe.train.is_encoding:
        from burnish.models.token_audit import audit_for

        findings = [*findings, *audit_for(model, rows, recipe.train.max_length)]
    if rows:
        say(infer_task(rows, recipe.task)[1])
    return CheckReport(tuple(findings), len(rows))


def pull(name: str) -> LocalModel:
    """Fetch, convert and prove a model; at once if it is here already. Raises PullFailed."""
    from burnish.models.pull import pull as pull_model

    return pull_model(name)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of this machine (`local`), or one of the catalogue that `pull` fetches."""

    name: str
    size_bytes: int
    licence: str
    context_length: int
    local: LocalModel | None = None


def models() -> list[KnownModel]:
    """List the models of this machine, and then those of the catalogue that aren't here."""
    from burnish.models.catalogue import catalogue
    from burnish.models.local_models import list_models

    here = list_models()
    names = {model.name for model in here}
    return [
        *(KnownModel(m.name, m.size_bytes, m.licence, m.context_length, m) for m in here),
        *(
            KnownModel(entry.name, entry.size_bytes, entry.licence, entry.context_length)
            for entry in catalogue().values()
            if entry.name not in names
        ),
    ]


def runs() -> list[Run]:
    """List the runs of this workspace, oldest first."""
    return list_runs()


@dataclass(frozen=True, slots=True)
class ResolvedRecipe:
    """A recipe with every field spelt out, and notes on what a translated file says differently."""

    recipe: Recipe
    notes: tuple[str, ...] = ()


@overload
def recipe(recipe: Source | None = None, *, schema: Literal[True]) -> dict[str, Any]: ...
@overload
def recipe(
    recipe: Source | None = None,
    changes: Iterable[str] = (),
    *,
    deepspeed: Path | None = None,
    autotrain: Path | None = None,
    kaito: Path | None = None,
) -> ResolvedRecipe: ...
def recipe(
    recipe: Source | None = None,
    changes: Iterable[str] = (),
    schema: bool = False,
    deepspeed: Path | None = None,
    autotrain: Path | None = None,
    kaito: Path | None = None,
) -> ResolvedRecipe | dict[str, Any]:
    """Check a recipe and return it with every field spelt out; or return its JSON Schema.

    `deepspeed` (a ds_config.json), `autotrain` (AutoTrain's YAML) and `kaito` (a Workspace) are
    translated and change the recipe before `changes` do. Raises BadRecipe.
    """
    if schema:
        return recipe_schema()
    from burnish.compat.autotrain import read_autotrain
    from burnish.compat.deepspeed import read_deepspeed
    from burnish.compat.kaito import read_kaito

    wanted, notes = list(changes), list[str]()
    readers = ((deepspeed, read_deepspeed), (autotrain, read_autotrain), (kaito, read_kaito))
    for file, read in readers:
        if file:
            imported = read(file)
            train = _read(recipe, [*imported.changes, *wanted]).train
            wanted = [*imported.changes, *imported.dependent(train), *wanted]
            notes += imported.notes
    return ResolvedRecipe(_read(recipe, wanted), tuple(notes))


def _read(recipe: Source | None, changes: list[str]) -> Recipe:
    return load_recipe(Path(recipe), changes) if recipe else make_recipe({}, changes)
