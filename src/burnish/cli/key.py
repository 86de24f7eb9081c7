"""`burnish key`: who may ask the server, and for what."""

from typing import Annotated

import typer

from burnish.cli.options import AsJson
from burnish.cli.output import show


def command(
    name: Annotated[str | None, typer.Argument(help="A name for the key.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Only this model, or pattern (`ft:*`); repeatable."),
    ] = None,
    routes: Annotated[
        list[str] | None, typer.Option("--route", help="Only this route (`chat`); repeatable.")
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(min=1, help="At most so many requests a minute.")
    ] = None,
    organization: Annotated[
        str, typer.Option(help="Whose it is: organisations do not see each other's things.")
    ] = "burnish",
    most_bytes: Annotated[
        int | None, typer.Option(min=1, help="The organisation may store so many bytes.")
    ] = None,
    most_jobs: Annotated[
        int | None, typer.Option(min=1, help="The organisation may have so many jobs at once.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="The key stops working.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the keys of `burnish serve`, make one, or remove one.

    Example: burnish key shop --model "ft:*" --route chat --per-minute 60
    """
    from burnish import api

    if name is None:
        keys = api.key()
        shown = "\n".join(f"{key['name']:20} {_format_limits(key)}" for key in keys) or "No keys."
        show(shown, keys, as_json)
    elif remove:
        api.key(name, remove=True)
        show(f"Removed: {name}", {"removed": name}, as_json)
    else:
        value = api.key(
            name,
            models=models or (),
            routes=routes or (),
            per_minute=per_minute,
            organization=organization,
            most_bytes=most_bytes,
            most_jobs=most_jobs,
        )
        show(f"{name}, shown once: {value}", {"name": name, "value": value}, as_json)


def _format_limits(key: dict[str, object]) -> str:
    hidden = ("name", "created_at", "organization")
    named = {name: value for name, value in key.items() if value and name not in hidden}
    limits = ", ".join(f"{name}: {value}" for name, value in named.items()) or "may do all"
    return f"{key['organization']:12} {limits}"
