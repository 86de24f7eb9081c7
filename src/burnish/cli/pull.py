"""`burnish pull`: fetch, convert and prove a model."""

from typing import Annotated

import typer

from burnish.cli.options import AsJson
from burnish.cli.output import format_size, show


def command(
    name: Annotated[str, typer.Argument(help="A catalogue name, a hub id, or a local path.")],
    as_json: AsJson = False,
) -> None:
    """Fetch a model, convert it to safetensors, and prove its tokenizer equal.

    Example: burnish pull smollm2-135m-instruct
    """
    from burnish import api

    model = api.pull(name)
    show(
        f"{model.name}: {format_size(model.size_bytes)} in {model.path}",
        {"name": model.name, "path": str(model.path), "sha256": model.sha256},
        as_json,
    )
