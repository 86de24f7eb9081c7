"""`burnish serve`: models and runs behind the OpenAI API."""

from typing import Annotated

import typer

from burnish.cli.options import Changes

Best = Annotated[
    bool,
    typer.Option(
        "--best",
        help="Serve the run's export that won `export --for-this-machine` here, under the run's "
        "name.",
    ),
]


def command(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Runs and models. [default: the starter model]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    aliases: Annotated[
        list[str] | None,
        typer.Option("--alias", metavar="NAME=MODEL", help="Serve a model under another name too."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database of files and jobs. [default: SQLite]"),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where jobs are trained: ray, ray://HOST:PORT. [default: this machine]",
        ),
    ] = None,
    best: Best = False,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=URL", help="Let another server (vLLM) answer for a run or a model."
        ),
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="First prove that adapters do not mix; then serve.")
    ] = False,
    python_graders: Annotated[
        bool,
        typer.Option("--python-graders", help="Run Python that requests bring, in a sandbox."),
    ] = False,
    changes: Changes = None,
) -> None:
    """Serve models and fine-tuned runs to any OpenAI client, until stopped.

    Example: burnish serve last --alias gpt-4o-mini=smollm2-135m-instruct
    """
    from burnish import api

    api.serve(
        sources or (),
        aliases or (),
        best,
        self_test,
        changes or (),
        host=host,
        port=port,
        store=store,
        executor=executor,
        upstream=upstream or (),
        python_graders=python_graders,
    )
