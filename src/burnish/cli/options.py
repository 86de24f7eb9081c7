"""The arguments that several words share, each described once."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[
    Path | None, typer.Argument(help="A recipe (YAML). Without one, name files with --train.")
]
TrainFiles = Annotated[
    list[Path] | None, typer.Option("--train", help="A file of rows to learn from. Repeatable.")
]
ValidationFiles = Annotated[
    list[Path] | None, typer.Option("--validation", help="A file to choose the checkpoint by.")
]
TestFiles = Annotated[
    list[Path] | None, typer.Option("--test", help="A file to measure on; frozen at first use.")
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="A catalogue name, a hub id, or a local folder.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field: train.learning_rate=1e-4"),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run. [default: a new one]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Passages = Annotated[int, typer.Option("-k", min=1, help="How many passages.")]
Rerank = Annotated[
    str,
    typer.Option("--rerank", metavar="MODEL", help="A cross-encoder that orders the best anew."),
]
FilePattern = Annotated[
    str | None, typer.Option("--files", metavar="GLOB", help="Of these files only: 'manuals/*.pdf'")
]
