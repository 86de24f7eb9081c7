"""Train models: `train`, `distill`, `review`, `merge`, `forecast`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from burnish.api.inputs import RecipeInputs, Source, as_changes, resolve
from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import load_recipe, make_recipe
from burnish.core.runs import Run, find_run
from burnish.core.units import Bytes
from burnish.preflight import check_inputs, load_rows

if TYPE_CHECKING:
    from burnish.distill.report import DistillationResult
    from burnish.distill.review import DisputedRow
    from burnish.train.forecast.memory_table import Assumptions, TableCell
    from burnish.train.report import TrainReport
    from burnish.train.search.run import SearchReport


class TrainInputs(RecipeInputs, total=False):
    """The inputs of a recipe, and the training method by its name."""

    method: str | None


@overload
def train(
    recipe: Source | None = None,
    out: Path | None = None,
    resume: str | None = None,
    **inputs: Unpack[TrainInputs],
) -> TrainReport: ...
@overload
def train(
    recipe: Source | None = None,
    out: Path | None = None,
    *,
    search: Literal[True],
    space: Path | None = None,
    **inputs: Unpack[TrainInputs],
) -> SearchReport: ...
@overload
def train(
    recipe: Source | None = None,
    out: Path | None = None,
    *,
    space: Path,
    **inputs: Unpack[TrainInputs],
) -> SearchReport: ...
@overload
def train(
    recipe: Source, out: Path, *, together: Sequence[Source], **inputs: Unpack[TrainInputs]
) -> list[TrainReport]: ...
@overload
def train(
    recipe: Source | None = None,
    out: Path | None = None,
    resume: str | None = None,
    search: bool = False,
    space: Path | None = None,
    together: Sequence[Source] = (),
    **inputs: Unpack[TrainInputs],
) -> TrainReport | SearchReport | list[TrainReport]: ...
def train(
    recipe: Source | None = None,
    out: Path | None = None,
    resume: str | None = None,
    search: bool = False,
    space: Path | None = None,
    together: Sequence[Source] = (),
    **inputs: Unpack[TrainInputs],
) -> TrainReport | SearchReport | list[TrainReport]:
    """Fine-tune a model; or, with `resume`, go on with the run of that id.

    `search` tries the settings of the recipe's `search` section, or those of `space`, a file with
    Olive's `search_strategy` and `search_space`, and trains the best with several seeds. `together`
    are further recipes whose adapters are trained at the same time on the same base; each run is a
    folder in `out`, and the same call goes on after a stop.

    Raises AuditFailed, BadData, BadRecipe, DoesNotFit before anything is trained; TrainingStopped
    after.
    """
    method = inputs.pop("method", None)
    changes = [*_space_changes(space), *inputs.pop("changes", ())]
    changes += as_changes({"train.method": method})
    if together:
        if recipe is None or out is None or resume or search or space:
            raise BadRecipe(
                "--together needs a recipe and --out, and goes without --resume, --search and "
                "--space.",
                "burnish train a.yaml --together b.yaml --out adapters",
            )
        return _train_together([recipe, *together], out, changes)
    plain: RecipeInputs = {**inputs, "changes": changes}  # type: ignore[typeddict-item]
    if search or space:
        return _search(recipe, out, plain)
    run = find_run(resume, unfinished=True) if resume else None
    if run:
        resolved = make_recipe(run.recipe.model_dump(mode="json"), changes)
    else:
        resolved = check_inputs(resolve(recipe, **plain))
    dataset = load_rows(resolved, answered=resolved.train.needs_answers)
    from burnish.train.run import train as train_model

    return train_model(resolved, dataset, out, run.path if run else None)


def _space_changes(space: Path | None) -> list[str]:
    from burnish.compat.olive_search_space import recipe_changes

    return recipe_changes(space) if space else []


def _search(recipe: Source | None, out: Path | None, inputs: RecipeInputs) -> SearchReport:
    resolved = check_inputs(resolve(recipe, **inputs))
    dataset = load_rows(resolved)
    from burnish.train.search.run import search as search_settings

    return search_settings(resolved, dataset, out)


def _train_together(recipes: Sequence[Source], out: Path, changes: list[str]) -> list[TrainReport]:
    files = [Path(recipe) for recipe in recipes]
    named = {file.stem: load_recipe(file, changes) for file in files}
    if len(named) < len(files):
        raise BadRecipe(
            "Two recipes have the same file name, and their runs would have the same folder.",
            "Rename one of them.",
        )
    from burnish.train.multi_lora.run import train_together as train_adapters

    return train_adapters(named, out)


def next_command(report: TrainReport) -> str:
    """Return the command that uses a trained model, by the kind of its artifact."""
    from burnish.models.artifact import open_artifact

    words = {
        "classifier": "serve {}",
        "token_classifier": "serve {}",
        "embedder": "index FOLDER --name NAME --embedder {}",
    }
    kind = open_artifact(Path(report.artifact)).kind
    return f"burnish {words.get(kind, 'chat {}').format(report.run)}"


def distill(
    recipe: Source | None = None,
    out: Path | None = None,
    teacher: str | None = None,
    **inputs: Unpack[RecipeInputs],
) -> DistillationResult:
    """Let a teacher answer the rows' questions, train a student on the answers, measure both.

    `teacher` is a run, a model, or a name at the recipe's endpoint. Raises BadData, BadRecipe
    before anything is asked; TeacherStopped when the teacher gives out.
    """
    named = as_changes({"distill.teacher.model": teacher})
    inputs["changes"] = [*inputs.get("changes", ()), *named]
    resolved = check_inputs(resolve(recipe, **inputs))
    from burnish.distill.run import distill as distill_student

    return distill_student(resolved, out=out)


@dataclass(frozen=True, slots=True)
class Review:
    """The rows of a distillation that wait for a person's decision."""

    run: Run
    rows: Sequence[DisputedRow]

    def decide(self, row: DisputedRow, decision: str, answer: str = "") -> None:
        """Write a decision down: keep, edit, drop or skip; `answer` is what is to be learnt.

        Raises BadData for an answer that the task doesn't know.
        """
        from burnish.distill.review import decide

        decide(self.run, row, decision, answer)


def review(run: str = "last", sample: int | None = None, seed: int = 0) -> Review:
    """Open the rows that the checks or the teachers of a distillation dispute.

    `sample` of them are drawn by `seed`. Raises NotFound if the run is no distillation.
    """
    from burnish.distill.review import list_disputed

    found = find_run(run)
    return Review(found, list_disputed(found, sample, seed))


class MergeSettings(TypedDict, total=False):
    """How adapters are merged: see `train.adapters.merge.MergeOptions`."""

    how: str
    density: float
    rank: int
    seed: int


def merge(
    runs: Sequence[str],
    weights: Sequence[float] = (),
    out: Path | None = None,
    **settings: Unpack[MergeSettings],
) -> Run:
    """Merge the adapters of several runs into one, a new run; nothing is trained.

    `weights` are the factors of the runs' updates, in their order; equal parts without them.
    Raises NotFound for an unknown run, BadRecipe for runs that can't be merged.
    """
    from burnish.train.adapters.merge import MergeOptions
    from burnish.train.adapters.merge import merge as merge_runs

    factors = list(weights) or [1 / len(runs)] * len(runs)
    return merge_runs(runs, factors, MergeOptions(**settings), out)


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """The memory of each training on each number of GPUs, and what was assumed."""

    assumptions: Assumptions
    cells: Sequence[TableCell]

    def as_list(self) -> list[dict[str, Any]]:
        """The shape that `burnish forecast --json` prints."""
        return [cell.as_dict() for cell in self.cells]


def forecast(
    model: str = "",
    memory: str = "24GB",
    tokens: int = 2048,
    rank: int = 16,
    checkpointing: bool = True,
) -> MemoryForecast:
    """Estimate the memory of training on 1, 2, 4 and 8 GPUs, for each method and way to divide it.

    `model` is one of the table or of this machine, all of the table if empty; `memory` is that of
    a GPU; `tokens` are those of a micro-batch. Raises NotFound, BadRecipe.
    """
    size = _parse_bytes(memory)
    from burnish.train.forecast.memory_table import Assumptions, memory_table

    terms = Assumptions(memory=size, tokens=tokens, rank=rank, checkpointing=checkpointing)
    return MemoryForecast(terms, memory_table(terms, model))


def _parse_bytes(text: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    try:
        return float(TypeAdapter(Bytes).validate_python(text))
    except ValidationError as error:
        raise BadRecipe(f"--memory {text} is no size.", "Write it as 24GB or 80GB.") from error
