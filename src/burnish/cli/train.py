"""`burnish train`: fine-tune a model."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import (
    AsJson,
    Changes,
    ModelName,
    Out,
    RecipeFile,
    TestFiles,
    TrainFiles,
    ValidationFiles,
)
from burnish.cli.output import format_facts, format_size, show
from burnish.core.errors import BadRecipe
from burnish.core.progress import format_clock
from burnish.core.settings import is_worker

if TYPE_CHECKING:
    from burnish.train.report import TrainReport
    from burnish.train.search.run import SearchReport


_NOT_TOGETHER = (
    "--together needs a recipe and --out, and goes without --resume, --search and --space.",
    "burnish train a.yaml --together b.yaml --out adapters",
)
_Space = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Try the settings of this file: `search_strategy` and `search_space`, as courses on "
        "Olive write them.",
    ),
]
_Together = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="RECIPE",
        help="Train this recipe's adapter at the same time, on the same base; each run is a "
        "folder in --out, and the same command goes on after a stop. Repeatable.",
    ),
]


def command(
    recipe: RecipeFile = None,
    train: TrainFiles = None,
    validation: ValidationFiles = None,
    test: TestFiles = None,
    model: ModelName = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Which weights move: lora, dora, qlora, ia3, bottleneck, prompt, prefix, full."
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run (an id, or `last`).")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Try the settings of the recipe's search section.")
    ] = False,
    space: _Space = None,
    together: _Together = None,
    changes: Changes = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on checked rows; killed at any moment, it goes on with --resume.

    Example: burnish train --train rows.jsonl --model smollm2-135m-instruct
    """
    from burnish import api

    settings = [
        *_read_space(space),
        *(changes or ()),
        *([f"train.method={method}"] if method else ()),
    ]
    files: api.RecipeInputs = {
        "train": train or (),
        "validation": validation or (),
        "test": test or (),
        "model": model,
        "changes": settings,
    }
    if together:
        if recipe is None or out is None or resume or search or space:
            raise BadRecipe(*_NOT_TOGETHER)
        _train_together([recipe, *together], out, settings, as_json)
        return
    if search or space:
        result = api.train_search(recipe, out=out, **files)
        show(_format_search(result), result.as_dict(), as_json)
        return
    report = api.train(recipe, out=out, resume=resume, **files)
    if not is_worker():
        show(_format_report(report), report.as_dict(), as_json)


def _read_space(space: Path | None) -> list[str]:
    from burnish.compat.olive_search_space import recipe_changes

    return recipe_changes(space) if space else []


def _format_report(report: "TrainReport") -> str:
    text = format_facts(
        {
            "artifact": str(report.artifact),
            "steps": f"{report.steps} ({report.stopped})",
            "time": format_clock(report.train_seconds),
            "tokens/s": f"{report.tokens_per_second:.0f}",
            "peak memory": format_size(report.peak_memory_bytes),
            "next": _next_step(report),
        }
    )
    for found in report.diagnoses:
        text += f"\n\n{found.message}\n{found.fix}"
    return text


def _train_together(recipes: list[Path], out: Path, changes: list[str], as_json: bool) -> None:
    from burnish.multi_adapter import train_together

    reports = train_together(recipes, out, changes)
    text = format_facts(
        {
            report.run: f"{report.steps} steps ({report.stopped}), burnish chat {out / report.run}"
            for report in reports
        }
    )
    show(text, [report.as_dict() for report in reports], as_json)


def _next_step(report: "TrainReport") -> str:
    """What to do with the artifact: its kind says."""
    from burnish.models.artifact import open_artifact

    words = {
        "classifier": "serve {}",
        "token_classifier": "serve {}",
        "embedder": "index FOLDER --name NAME --embedder {}",
    }
    kind = open_artifact(Path(report.artifact)).kind
    return f"burnish {words.get(kind, 'chat {}').format(report.run)}"


def _format_search(result: "SearchReport") -> str:
    losses = ", ".join(f"{loss:.4f}" for loss in result.losses.values())
    ended = Counter(trial["ended"] for trial in result.trials)
    return format_facts(
        {
            "trials": ", ".join(f"{count} {how}" for how, count in ended.items()),
            **{field: str(value) for field, value in result.best.items()},
            "validation loss": f"{losses} (spread {result.spread:.4f})",
            "artifact": result.artifact,
            "next": f"burnish chat {result.run}",
        }
    )
