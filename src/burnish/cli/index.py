"""`burnish index`: documents that can be searched."""

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import AsJson
from burnish.cli.output import show


def command(
    name: Annotated[str, typer.Option("--name", help="The name of the index.")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders and files; without any, those of last time."),
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="The embedding model. [default: all-minilm-l6-v2]")
    ] = None,
    chunk_tokens: Annotated[
        int | None, typer.Option(min=16, help="Longest passage, in tokens. [default: 200]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make or renew an index of documents: Markdown, text, HTML, CSV, JSONL, PDF, Word.

    Only what changed is read again; what is gone from the folders leaves the index.
    Example: burnish index handbook --name handbook
    """
    from burnish import api

    report = api.index(sources or (), name, embedder=embedder, chunk_tokens=chunk_tokens)
    show(report.as_text(), report.as_dict(), as_json)
