"""`burnish`: the words, and the one place where an error becomes an exit code.

0 done; 1 the answer is "no" (a gate failed, the data has errors); 2 wrong use; 70 our own fault.
"""

import logging
import sys
import traceback

import typer

from burnish import __version__
from burnish.cli import (
    ask,
    chat,
    check,
    compare,
    distill,
    evaluate,
    export,
    forecast,
    import_openai,
    index,
    init,
    key,
    merge,
    models,
    olive,
    pull,
    recipe,
    review,
    runs,
    search,
    serve,
    train,
)
from burnish.core.errors import BurnishError
from burnish.core.progress import LineReporter, set_reporter
from burnish.core.recipe.renamed_keys import note
from burnish.core.settings import is_worker

app = typer.Typer(
    help="Turn your own data into a small language model, and prove whether it was worth it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    init, pull, models, check, forecast, train, merge, evaluate, compare, distill, review,
    export, index, search, ask, chat, serve, key, import_openai, olive, runs, recipe,
)  # fmt: skip
for word in COMMANDS:
    app.command(
        word.__name__.rpartition(".")[2].replace("_", "-"),
        context_settings=getattr(word, "CONTEXT", None),
    )(word.command)


#: Old words that are accepted for one release, and the new ones.
RENAMED_COMMANDS = {"distil": distill}
for old, word in RENAMED_COMMANDS.items():
    app.command(old, hidden=True)(word.command)


@app.callback(invoke_without_command=True)
def configure(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on stderr."),
) -> None:
    """Turn your own data into a small language model, and prove whether it was worth it."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if not quiet and not is_worker():
        set_reporter(_make_reporter())
    if context.invoked_subcommand in RENAMED_COMMANDS:
        new = RENAMED_COMMANDS[context.invoked_subcommand].__name__.rpartition(".")[2]
        note(f"`burnish {context.invoked_subcommand}` is now `burnish {new}`")
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


def _make_reporter() -> LineReporter:
    if sys.stderr.isatty():
        from burnish.cli.progress_bars import ProgressBars

        return ProgressBars()  # type: ignore[return-value]
    return LineReporter()


def main() -> None:
    """Run the command line; never returns."""
    try:
        app()
    except BurnishError as error:
        typer.echo(f"burnish: {error}", err=True)
        sys.exit(error.code)
    except KeyboardInterrupt:
        typer.echo("burnish: stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        typer.echo(f"burnish: {error}\nCheck the disk's free space and permissions.", err=True)
        sys.exit(1)
    except Exception:  # noqa: BLE001 the last stop: anything here is our fault, and says so
        traceback.print_exc()
        typer.echo("burnish: this is a fault in burnish; please report the lines above.", err=True)
        sys.exit(70)
