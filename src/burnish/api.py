"""The verbs as Python functions: the same names and arguments as on the command line.

    from burnish import api

    result = api.compare(train=["tickets.jsonl"], model="smollm2-135m-instruct")
    print(result.verdict.reason)

Heavy libraries load inside the verb that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe import Recipe, load_recipe, make_recipe
from burnish.core.records import Finding

if TYPE_CHECKING:
    from burnish.compare.run import Comparison
    from burnish.core.runs import Run
    from burnish.models.local import LocalModel
    from burnish.train.report import TrainReport

Source = Path | str


class Files(TypedDict, total=False):
    """Rows and a model named directly, beside or instead of a recipe file."""

    train: Sequence[Source]
    validation: Sequence[Source]
    test: Sequence[Source]
    model: str | None
    changes: Iterable[str]


def resolve(recipe: Source | None = None, **files: Unpack[Files]) -> Recipe:
    """The recipe that a file, or rows and a model named directly, mean.

    Raises BadRecipe if it can't be understood or names no rows.
    """
    values = (load_recipe(Path(recipe)) if recipe else Recipe()).model_dump(mode="json")
    for name in ("train", "validation", "test"):
        if paths := files.get(name):
            values["data"][name] = [str(Path(str(path)).absolute()) for path in paths]
    if model := files.get("model"):
        values["model"]["name"] = model
    resolved = make_recipe(values, files.get("changes") or ())
    if not resolved.data.train and not resolved.data.test:
        raise BadRecipe(
            "No data is named.", "Give a recipe, or files: --train rows.jsonl --test more.jsonl"
        )
    return resolved


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found; `ok` is false if there is an error among the findings."""

    findings: tuple[Finding, ...]
    rows: int

    @property
    def ok(self) -> bool:
        """Whether training may begin."""
        return not any(finding.severity == "error" for finding in self.findings)


def pull(name: str) -> LocalModel:
    """Fetch, convert and prove a model; at once if it is here already. Raises PullFailed."""
    from burnish.models.pull import pull as pull_model

    return pull_model(name)


def models() -> list[LocalModel]:
    """The models that are on this machine."""
    from burnish.models.local import list_models

    return list_models()


def runs() -> list[Run]:
    """The runs of this workspace, oldest first."""
    from burnish.core.runs import list_runs

    return list_runs()


def check(
    files: Sequence[Source], model: str | None = None, changes: Iterable[str] = ()
) -> CheckReport:
    """Check data files, or all files of a recipe; with `model`, the tokens too.

    Several files are taken as splits that must not share rows. Raises BadRecipe, NotFound.
    """
    from burnish.data.check import check as check_rows
    from burnish.data.infer import infer_task
    from burnish.data.read import read

    paths = [Path(file) for file in files]
    if len(paths) == 1 and paths[0].suffix in (".yaml", ".yml"):
        recipe = resolve(paths[0], model=model, changes=changes)
        paths = [*recipe.data.train, *recipe.data.validation, *recipe.data.test]
        model = recipe.model.name
    else:
        recipe = resolve(train=paths, changes=changes)
    findings = check_rows(paths, recipe.data, recipe.task)
    rows = read(paths, recipe.data, recipe.task).rows
    if model:
        from burnish.models.audit import audit
        from burnish.models.load import load_tokenizer
        from burnish.models.local import find_model

        tokenizer = load_tokenizer(find_model(model))
        findings = [*findings, *audit(rows, tokenizer, recipe.train.max_length)]
    if rows:
        say(infer_task(rows, recipe.task)[1])
    return CheckReport(tuple(findings), len(rows))


def train(
    recipe: Source | None = None,
    out: Path | None = None,
    resume: str | None = None,
    **files: Unpack[Files],
) -> TrainReport:
    """Fine-tune a model; or, with `resume`, go on with the run of that id.

    Raises AuditFailed, BadData, DoesNotFit before anything is trained; TrainingStopped after.
    """
    from burnish.core.runs import find_run
    from burnish.train.run import train as train_model

    if resume:
        run = find_run(resume)
        return train_model(run.recipe, resume=run.path)
    return train_model(resolve(recipe, **files), out=out)


def compare(
    recipe: Source | None = None, out: Path | None = None, **files: Unpack[Files]
) -> Comparison:
    """Measure every route on the same frozen test split and say which to take."""
    from burnish.compare.run import compare as compare_routes

    return compare_routes(resolve(recipe, **files), out=out)
