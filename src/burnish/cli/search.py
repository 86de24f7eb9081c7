"""`burnish search`: the passages that a question is about."""

from typing import Annotated

import typer

from burnish.cli.options import AsJson, FilePattern, Passages, Rerank
from burnish.cli.output import show


def command(
    name: Annotated[str, typer.Argument(help="The name of the index.")],
    question: Annotated[str, typer.Argument(help="What is looked for.")],
    k: Passages = 5,
    files: FilePattern = None,
    rerank: Rerank = "",
    as_json: AsJson = False,
) -> None:
    """Find the passages of an index that a question is about, by meaning and by words.

    Example: burnish search handbook "How long is an account locked?" -k 3
    """
    from burnish import api

    found = api.search(name, question, k=k, files=files, rerank=rerank)
    parts = [
        f"{number}. {item.passage.source}\n{item.passage.text}"
        for number, item in enumerate(found, start=1)
    ]
    passages = [item.as_dict() for item in found]
    show("\n\n".join(parts), {"passages": passages, "note": found.note}, as_json)
