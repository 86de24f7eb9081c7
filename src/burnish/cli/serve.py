"""`burnish serve`: models and runs behind the OpenAI API."""

from typing import Annotated

import typer

from burnish.cli.options import Changes
from burnish.core.errors import BadRecipe
from burnish.core.progress import say


def command(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Runs and models. [default: the starter model]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL", help="Serve a model under another name too."),
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
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="Serve the run's export that won `export --for-this-machine` here, under the "
            "run's name.",
        ),
    ] = False,
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

    settings = [*(changes or ())]
    settings += [f"serve.host={host}"] if host else []
    settings += [f"serve.port={port}"] if port is not None else []
    settings += [f"serve.store={store}"] if store else []
    settings += [f"serve.executor={executor}"] if executor else []
    settings += ["serve.python_graders=true"] if python_graders else []
    named, aliases = sources or ["smollm2-135m-instruct"], [*(alias or ())]
    if best:
        named, aliases, measured = _best(named, aliases)
        settings = [*measured, *settings]
    if self_test:
        api.prove_apart(named)
    api.serve(named, aliases=aliases, changes=settings)


def _best(named: list[str], aliases: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The folder in place of the run, under the names that the run would have; its settings."""
    if len(named) != 1:
        raise BadRecipe("--best serves one run.", "burnish serve RUN --best")
    import torch

    from burnish.core.runs import find_run
    from burnish.export.best import best_of

    found = best_of(find_run(named[0]))
    say(f"{found.folder}: {found.why}")
    if found.torch_threads:
        torch.set_num_threads(found.torch_threads)
    folder = str(found.folder)
    meant = [f"{name}={folder}" for name in dict.fromkeys([found.run, *named])]
    for alias in aliases:
        name, equals, model = alias.partition("=")
        own = model in (found.run, *named)
        meant.append(f"{name}={folder}" if own and equals else alias)
    return [folder], meant, found.changes
