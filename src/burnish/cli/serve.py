"""`burnish serve`: models and runs behind the OpenAI API."""

import json
from collections.abc import Iterable
from typing import Annotated

import typer

from burnish.cli.options import Changes
from burnish.core.progress import say

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

    own = {"host": host, "port": port, "store": store, "executor": executor}
    own["python_graders"] = python_graders or None
    settings = [*_upstream_changes(upstream or ()), *(changes or ())]
    settings += [f"serve.{name}={value}" for name, value in own.items() if value is not None]
    elsewhere = any(change.startswith("serve.upstream") for change in settings)
    named, aliases = sources or ([] if elsewhere else ["smollm2-135m-instruct"]), [*(alias or ())]
    if best:
        from burnish.export.search.winner import resolve_best

        named, aliases, measured = resolve_best(named, aliases)
        settings = [*measured, *settings]
    if self_test:
        _check_isolation(named, settings)
    api.serve(named, aliases=aliases, changes=settings)


def _check_isolation(named: list[str], settings: list[str]) -> None:
    """That adapters do not mix, as far as they answer here."""
    from burnish import api
    from burnish.core.recipe.recipe import make_recipe

    api.check_isolation(named)
    for name in make_recipe({}, settings).serve.upstream:
        say(f"{name}: at another server, of which nothing is proven.")


def _upstream_changes(given: Iterable[str]) -> list[str]:
    """`MODEL=URL` as one change of the recipe, before those that say more of each."""
    table = {model: {"url": url} for model, _, url in (pair.partition("=") for pair in given)}
    return [f"serve.upstream={json.dumps(table)}"] if table else []
