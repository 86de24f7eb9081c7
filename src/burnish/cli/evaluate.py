"""`burnish evaluate`: how good is one model?"""

from typing import Annotated

import typer

from burnish.cli.options import AsJson, Changes, ModelName, Out, RecipeFile, TestFiles, TrainFiles
from burnish.cli.output import format_facts, show


def command(
    recipe: RecipeFile = None,
    source: Annotated[
        str | None, typer.Option(help="A run (an id, or `last`) or a model. [default: the base]")
    ] = None,
    train: TrainFiles = None,
    test: TestFiles = None,
    model: ModelName = None,
    changes: Changes = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure one model or run on the frozen test split, with its interval.

    Example: burnish evaluate triage.yaml --source last
    """
    from burnish import api

    result = api.evaluate(
        recipe,
        source=source,
        out=out,
        train=train or (),
        test=test or (),
        model=model,
        changes=changes or (),
    )
    found = result.scores.interval
    beside = {name: f"{value:.1%}" for name, value in result.scores.extra.items()}
    lines = {
        result.scores.metric: f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})",
        **beside,
        **({} if result.perplexity is None else {"perplexity": f"{result.perplexity:.2f}"}),
        "questions": str(found.n),
        **({"judge": result.judge["words"]} if result.judge else {}),
        "predictions": str(result.run.path / "predictions.jsonl"),
    }
    show(format_facts(lines), result.as_dict(), as_json)
