"""`burnish forecast`: which models can be trained on which GPUs, by arithmetic."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import AsJson
from burnish.cli.output import format_table, show

if TYPE_CHECKING:
    from burnish.api import Assumptions, TableCell


def command(
    model: Annotated[
        str, typer.Argument(help="A model of the table, or one of this machine. [default: all]")
    ] = "",
    memory: Annotated[str, typer.Option(help="Memory of a GPU: 80GB.")] = "24GB",
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of a pass (micro-batch).")] = 2048,
    rank: Annotated[int, typer.Option(min=1, help="Rank of LoRA's adapters.")] = 16,
    checkpointing: Annotated[
        bool, typer.Option(help="Compute activations twice to hold fewer.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Estimate the memory of training on 1, 2, 4 and 8 GPUs, for each method and way to divide it.

    Nothing is run: a training says by itself what it will need, from steps that it rehearses.

    Example: burnish forecast --memory 80GB

    Example: burnish forecast "Llama 3.1 8B" --tokens 4096
    """
    from burnish import api

    table = api.forecast(model, memory, tokens, rank, checkpointing)
    body = _format_parts(table.cells) if model else _format_overview(table.cells)
    show(f"{body}\n\n{_format_legend(table.assumptions)}", table.as_list(), as_json)


def _format_overview(cells: Sequence["TableCell"]) -> str:
    """Return a line for each way to divide; the one GPU of its first column divides nothing."""
    texts = {(c.model, c.method, c.parallel, c.gpus): _format_cell(c) for c in cells}
    counts = sorted({cell.gpus for cell in cells} - {1})
    ways = dict.fromkeys((c.model, c.method, c.parallel) for c in cells if c.gpus > 1)
    lines = [
        [*way, texts[(*way[:2], "none", 1)], *[texts[(*way, count)] for count in counts]]
        for way in ways
    ]
    heads = ["model", "method", "parallel", "1 GPU", *[f"{count} GPUs" for count in counts]]
    return format_table(heads, lines)


def _format_parts(cells: Sequence["TableCell"]) -> str:
    """A line for each training of one model, with what its memory is for."""
    heads = ("method", "parallel", "GPUs", "parameters", "gradients", "optimizer", "activations")
    lines = []
    for cell in cells:
        need = cell.need
        parts = (need.parameters, need.gradients, need.optimizer, need.activations)
        sizes = [f"{part / 1e9:.2f}" for part in parts]
        lines.append([cell.method, cell.parallel, str(cell.gpus), *sizes, _format_cell(cell)])
    return f"{cells[0].model}\n{format_table((*heads, 'each GPU'), lines)}"


def _format_cell(cell: "TableCell") -> str:
    return f"{cell.need.on_device / 1e9:.1f}{' *' if cell.fits else ''}"


def _format_legend(terms: "Assumptions") -> str:
    again = "computed twice" if terms.checkpointing else "kept"
    return (
        f"GB on each GPU; * fits into {terms.memory / 1e9:.0f} GB with a tenth left free.\n"
        f"Reckoned: bfloat16, {terms.tokens} tokens a pass, activations {again}, "
        f"adapters of rank {terms.rank}."
    )
