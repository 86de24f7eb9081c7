"""`burnish train`: fine-tune a model."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

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
from burnish.core.progress import format_clock
from burnish.core.settings import is_worker

if TYPE_CHECKING:
    from burnish.api import SearchReport, TrainReport

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

    result = api.train(
        recipe,
        out,
        resume,
        search,
        space,
        together or (),
        train=train or (),
        validation=validation or (),
        test=test or (),
        model=model,
        method=method,
        changes=changes or (),
    )
    if isinstance(result, list):
        show(_format_runs(result, out), [report.as_dict() for report in result], as_json)
    elif search or space:
        show(_format_search(cast("SearchReport", result)), result.as_dict(), as_json)
    elif not is_worker():
        show(_format_report(cast("TrainReport", result)), result.as_dict(), as_json)


def _format_report(report: "TrainReport") -> str:
    from burnish import api

    text = format_facts(
        {
            "artifact": str(report.artifact),
            "steps": f"{report.steps} ({report.stopped})",
            "time": format_clock(report.train_seconds),
            "tokens/s": f"{report.tokens_per_second:.0f}",
            "peak memory": format_size(report.peak_memory_bytes),
            "next": api.next_command(report),
        }
    )
    for diagnosis in report.diagnoses:
        text += f"\n\n{diagnosis.message}\n{diagnosis.fix}"
    return text


def _format_runs(reports: "list[TrainReport]", out: Path | None) -> str:
    return format_facts(
        {
            report.run: f"{report.steps} steps ({report.stopped}), burnish chat {out}/{report.run}"
            for report in reports
        }
    )


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
