"""`burnish merge`: one adapter from several."""

from typing import Annotated

import typer

from burnish.cli.options import AsJson, Out
from burnish.cli.output import format_facts, show


def command(
    runs: Annotated[list[str], typer.Argument(help="Runs of train.method=lora on one base.")],
    weights: Annotated[
        list[float] | None,
        typer.Option(
            "--weight", help="Factor of a run's update, in their order; equal parts by default."
        ),
    ] = None,
    how: Annotated[
        str, typer.Option(help="linear (exact; ranks add up), svd, ties or dare_ties.")
    ] = "linear",
    density: Annotated[
        float, typer.Option(help="Share of each update that ties and dare_ties keep.")
    ] = 0.5,
    rank: Annotated[
        int, typer.Option(min=0, help="Rank of the result, but of linear; 0: the largest.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="What dare_ties draws by.")] = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Merge the adapters of several runs into one, a new run; nothing is trained.

    Example: burnish merge RUN_A RUN_B --weight 0.7 --weight 0.3 --how ties
    """
    from burnish import api

    run = api.merge(runs, weights or (), out, how=how, density=density, rank=rank, seed=seed)
    facts = {"artifact": str(run.artifact), "next": f"burnish chat {run.id}"}
    show(format_facts(facts), run.read("report.json"), as_json)
