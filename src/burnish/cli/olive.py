"""`burnish olive`: command lines of Microsoft Olive, run by burnish."""

from typing import Annotated

import typer

from burnish.cli.options import AsJson
from burnish.cli.output import format_facts, show

CONTEXT = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND [FLAGS]...",
            help="finetune, auto-opt, optimize, quantize, run, extract-adapters, convert-adapters "
            "or generate-adapter, with Olive's own flags.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Run a command line of Microsoft Olive: the same flags, trained and exported by burnish.

    A flag that burnish can't honour is refused; one that changes nothing here is named.

    Example: burnish olive finetune -m smollm2-135m-instruct --data_name json --data_files
    rows.jsonl --text_template "### Q: {q} ### A: {a}" --method lora -o adapters/qa

    Example: burnish olive auto-opt -m adapters/qa/model -a adapters/qa/adapter --precision int4
    """
    from burnish import api

    done = api.olive(words)
    facts = {name: str(value) for name, value in done.facts.items() if name != "passes"}
    lines = {"folder": str(done.folder), **facts}
    if done.next:
        lines["next"] = done.next
    show(
        "\n".join([format_facts(lines), *[f"- {note}" for note in done.notes]]),
        done.as_dict(),
        as_json,
    )
