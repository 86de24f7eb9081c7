"""`burnish chat`: talk to a model or a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from burnish.api import ChatSession


def command(
    source: Annotated[str, typer.Argument(help="A run (an id, or `last`) or a model.")] = "last",
    system: Annotated[str | None, typer.Option(help="System message; a run has its own.")] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask one thing and stop.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture before the first question. Repeatable.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 always gives the same answer.")] = 0.0,
) -> None:
    """Talk to a model; each answer comes as it is made. An empty line or Ctrl-D ends it."""
    from burnish import api

    chat = api.chat(source, system=system, max_new_tokens=max_new_tokens, temperature=temperature)
    images = image or []
    if message is not None:
        _print_answer(chat, message, images)
        return
    while line := _read_question():
        _print_answer(chat, line, images)
        images = []


def _read_question() -> str:
    if sys.stdin.isatty():
        typer.echo("> ", err=True, nl=False)
    return sys.stdin.readline().strip()


def _print_answer(chat: ChatSession, question: str, images: list[Path]) -> None:
    for piece in chat.ask(question, images):
        typer.echo(piece, nl=False)
    typer.echo()
