"""`burnish train`: fine-tune a model."""

from typing import Annotated

import typer

from burnish.cli.options import (
    AsJson,
    Changes,
    Model,
    Out,
    Recipe,
    TestFiles,
    TrainFiles,
    ValidationFiles,
)
from burnish.cli.output import facts, show, size
from burnish.core.progress import clock


def command(
    recipe: Recipe = None,
    train: TrainFiles = None,
    validation: ValidationFiles = None,
    test: TestFiles = None,
    model: Model = None,
    method: Annotated[
        str | None, typer.Option(help="Which weights move: lora, dora, qlora, ia3, full.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run (an id, or `last`).")
    ] = None,
    changes: Changes = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on checked rows; killed at any moment, it goes on with --resume.

    Example: burnish train --train rows.jsonl --model smollm2-135m-instruct
    """
    from burnish import api

    settings = [*(changes or ()), *([f"train.method={method}"] if method else ())]
    report = api.train(
        recipe,
        out=out,
        resume=resume,
        train=train or (),
        validation=validation or (),
        test=test or (),
        model=model,
        changes=settings,
    )
    text = facts(
        {
            "artifact": str(report.artifact),
            "steps": f"{report.steps} ({report.stopped})",
            "time": clock(report.train_seconds),
            "tokens/s": f"{report.tokens_per_second:.0f}",
            "peak memory": size(report.peak_memory_bytes),
            "next": f"burnish chat {report.run}",
        }
    )
    show(text, report.as_dict(), as_json)
