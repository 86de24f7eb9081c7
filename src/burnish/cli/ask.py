"""`burnish ask`: an answer from documents, with what it leans on."""

from typing import Annotated

import typer

from burnish.cli.options import AsJson, FilePattern, Passages, Rerank
from burnish.cli.output import show


def command(
    model: Annotated[str, typer.Argument(help="A model or a run (an id, or `last`).")],
    question: Annotated[str, typer.Argument(help="The question.")],
    index: Annotated[str, typer.Option("--index", help="The name of the index.")],
    k: Passages = 5,
    files: FilePattern = None,
    rerank: Rerank = "",
    least_similarity: Annotated[
        float,
        typer.Option(
            min=-1, max=1, help="Don't ask the model if no passage is as similar (cosine)."
        ),
    ] = 0.25,
    least_support: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Warn if less of the answer stands in the passages (share of words)."
        ),
    ] = 0.6,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the passages of an index, and cite them.

    Example: burnish ask smollm2-135m-instruct "How long is an account locked?" --index handbook
    """
    from burnish import api

    reply = api.ask(
        model,
        question,
        index,
        k=k,
        files=files,
        rerank=rerank,
        least_similarity=least_similarity,
        least_support=least_support,
        max_new_tokens=max_new_tokens,
    )
    show(reply.as_text(), reply.as_dict(), as_json)
