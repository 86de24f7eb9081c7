"""Pages that print a table of the code: formats, findings, metrics, other tools' keys and flags."""

import inspect
import json
from collections.abc import Callable, Mapping

from burnish.compat.olive.commands import ALTERNATIVES, COMMANDS
from burnish.compat.translate import KeyRule
from burnish.core.recipe.support import support_table
from burnish.data.findings import CODES
from burnish.data.formats import FORMATS
from burnish.evaluate.metrics import CORPUS_METRICS, METRICS
from burnish.models.token_audit import CHECKS
from tests.pages import NOTE, filled, table, text_of


def formats_page() -> str:
    """Every format of rows, with a line of each."""
    rows = [(name, f"`{shape.example}`") for name, shape in FORMATS.items()]
    head = "The format is recognized by the keys of a row; `data.format` sets it."
    about = "How to prepare rows: [Prepare data](../guides/prepare-data.md)."
    return text_of(
        "# Data formats", "", NOTE, "", head, about, "", *table(["format", "a line of it"], rows)
    )


def findings_page() -> str:
    """Every finding of `burnish check`, and every check of the token audit."""
    found = [(f"`{code}`", severity, what, fix) for code, (severity, what, fix) in CODES.items()]
    audit = [(f"`{code}`", what, fix) for code, (what, fix) in CHECKS.items()]
    return text_of(
        "# Findings of burnish check",
        "",
        NOTE,
        "",
        "An error stops training; a warning or a note doesn't.",
        "",
        *table(["code", "severity", "what it means", "what to do"], found),
        "",
        "## Token audit",
        "",
        "For the tokenizer and chat template in use, before training. All of these are errors.",
        "",
        *table(["code", "what it means", "what to do"], audit),
    )


def metrics_page() -> str:
    """The page on metrics: those of answers come from the code."""
    scores = [
        (f"`{name}`", _first_sentence(score).removeprefix("Return ").removeprefix("the "))
        for name, score in METRICS.items()
    ]
    beside = [
        (task, ", ".join(f"`{name}`" for name in measures))
        for task, measures in CORPUS_METRICS.items()
    ]
    blocks = {
        "scores": table(["metric", "what it is"], scores),
        "beside": table(["task", "shown beside, over the whole set"], beside),
    }
    return filled("docs/reference/metrics.md", blocks)


def support_page() -> str:
    """The page on what goes with what: the tables come from the code."""
    return filled("docs/reference/support.md", {"objectives": support_table().splitlines()})


def keys_page(tool: str, guide: str, keys: Mapping[str, KeyRule]) -> str:
    """Every key of another tool's configuration file, and what becomes of it."""
    rows = [(f"`{key}`", _meaning(meant)) for key, meant in keys.items()]
    return text_of(
        f"# {tool} keys", "", NOTE, "", f"How the file is read: [{tool}](../guides/{guide}.md).",
        "A key that isn't in the table is refused by name.", "", *table(["key", "here"], rows),
    )  # fmt: skip


def olive_flags_page() -> str:
    """Every flag of Olive's commands, and what becomes of it."""
    parts = ["# Olive flags", "", NOTE, "", "How they are used: [Olive](../guides/olive.md)."]
    for name, (_, flags) in COMMANDS.items():
        rows = [(f"`{flag}`", _fate(how.ignored, how.refused)) for flag, how in flags.items()]
        parts += ["", f"## {name}", "", *table(["flag", "here"], rows)]
    rest = [(f"`{name}`", instead) for name, instead in ALTERNATIVES.items()]
    return text_of(
        *parts, "", "## Commands without a counterpart", "", *table(["command", "instead"], rest)
    )


def _meaning(key: KeyRule) -> str:
    if key.ignored:
        return f"changes nothing, and says so: {key.ignored}"
    if not key.values:
        return f"`{key.field}`" if key.field else "see the guide"
    values = ", ".join(
        f"`{json.dumps(there)}`" + (f": `{key.field}={here}`" if here else "")
        for there, here in key.values
    )
    return f"{values}; else refused: {key.refused}"


def _fate(ignored: str, refused: str) -> str:
    if refused:
        return f"refused: {refused}"
    return f"changes nothing, and says so: {ignored}" if ignored else "as in Olive"


def _first_sentence(function: Callable[..., object]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
