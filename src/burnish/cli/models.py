"""`burnish models`: what is here."""

from burnish.cli.options import AsJson
from burnish.cli.output import format_size, format_table, show


def command(as_json: AsJson = False) -> None:
    """List the models that are here and those that `burnish pull` knows."""
    from burnish import api
    from burnish.models.catalogue import catalogue

    here = api.models()
    known = [entry for entry in catalogue().values() if entry.name not in {m.name for m in here}]
    lines = [
        (
            model.name,
            format_size(model.size_bytes),
            model.licence,
            "yes" if model.has_template else "no",
            str(model.context_length),
            "here",
        )
        for model in here
    ] + [
        (
            entry.name,
            format_size(entry.size_bytes),
            entry.licence,
            "",
            str(entry.context_length),
            "pull",
        )
        for entry in known
    ]
    heads = ("NAME", "SIZE", "LICENCE", "TEMPLATE", "CONTEXT", "STATE")
    show(
        format_table(heads, lines),
        [dict(zip(map(str.lower, heads), line, strict=True)) for line in lines],
        as_json,
    )
