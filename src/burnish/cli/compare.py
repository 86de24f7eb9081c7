"""`burnish compare`: was fine-tuning worth it?"""

from typing import Annotated

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
from burnish.cli.output import show


def command(
    recipe: RecipeFile = None,
    train: TrainFiles = None,
    validation: ValidationFiles = None,
    test: TestFiles = None,
    model: ModelName = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trainings of the judged route; the interval has the spread.")
    ] = None,
    changes: Changes = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure plain prompt, few-shot and fine-tune on one frozen test split; give a verdict.

    Exit code 1 if the fine-tune isn't worth shipping, or the evidence isn't enough; where no route
    trains, if none beats the plain prompt.
    Example: burnish compare --train train.jsonl --test test.jsonl
    """
    from burnish import api

    result = api.compare(
        recipe,
        out=out,
        seeds=seeds,
        train=train or (),
        validation=validation or (),
        test=test or (),
        model=model,
        changes=changes or (),
    )
    show(result.as_text(), result.as_dict(), as_json)
    raise typer.Exit(result.exit_code)
