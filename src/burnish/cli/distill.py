"""`burnish distill`: a teacher's skill in a small student."""

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
    teacher: Annotated[
        str | None, typer.Option(help="Who answers: a run, a model, or a name at the endpoint.")
    ] = None,
    changes: Changes = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Let a teacher answer the rows' questions, train a small student on what passes the checks,
    and measure baseline, student and teacher on one frozen test split.

    Exit code 1 if the student is no better than before, or the teacher failed too often; then the
    same command goes on where it stopped. Example: burnish distill recipe.yaml --teacher last
    """
    from burnish import api

    result = api.distill(
        recipe,
        out=out,
        teacher=teacher,
        train=train or (),
        validation=validation or (),
        test=test or (),
        model=model,
        changes=changes or (),
    )
    show(result.as_text(), result.as_dict(), as_json)
    raise typer.Exit(result.exit_code)
