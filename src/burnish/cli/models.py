"""`burnish models`: what is here."""

from burnish.cli.options import AsJson
from burnish.cli.output import format_size, format_table, show


def command(as_json: AsJson = False) -> None:
    """List the models that are here and those that `burnish pull` knows."""
    from burnish import api

    lines = []
    for model in api.models():
        template = "" if model.local is None else "yes" if model.local.has_template else "no"
        lines.append(
            (
                model.name,
                format_size(model.size_bytes),
                model.licence,
                template,
                str(model.context_length),
                "here" if model.local else "pull",
            )
        )
    heads = ("NAME", "SIZE", "LICENCE", "TEMPLATE", "CONTEXT", "STATE")
    show(
        format_table(heads, lines),
        [dict(zip(map(str.lower, heads), line, strict=True)) for line in lines],
        as_json,
    )
