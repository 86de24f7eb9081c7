"""Write the generated pages of the docs: `make docs`. A test fails when they are stale."""

import json
from collections.abc import Mapping
from pathlib import Path

import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.compat import autotrain, deepspeed, kaito
from burnish.compat.olive.commands import ALTERNATIVES, COMMANDS
from burnish.compat.translate import KeyRule
from burnish.core.recipe.recipe import recipe_schema, recipe_sections
from burnish.core.settings import SETTINGS
from burnish.data.findings import CODES
from burnish.data.formats import FORMATS
from burnish.models.token_audit import CHECKS
from tests.serve.conformance.page import conformance_page

ROOT = Path(__file__).parent.parent
WORDS = sorted(command.name for command in app.registered_commands)


def recipe_page() -> str:
    """Every field of every section, with its default and its description."""
    parts = [
        "# The recipe",
        "",
        "Generated from the code by `make docs`. Every field has a default: a recipe says only",
        "what differs. `burnish recipe my.yaml` prints it with every field spelt out,",
        "`burnish recipe --schema` prints the JSON Schema (also in `docs/burnish.schema.json`).",
        "Put `# yaml-language-server: $schema=...` on the first line: your editor completes it.",
    ]
    for section in recipe_sections():
        parts += ["", f"## {section.__name__}", "", section.__doc__ or "", ""]
        parts += ["| field | default | what it is |", "|---|---|---|"]
        for name, field in section.model_fields.items():
            value = field.get_default(call_default_factory=True)
            if isinstance(value, BaseModel):
                value = getattr(value, "kind", type(value).__name__)
            if field.is_required():
                value = "required"
            text = field.description or "Chooses this kind."
            parts.append(f"| `{name}` | `{value if value is not None else ''}` | {text} |")
    return "\n".join(parts) + "\n"


def commands_page() -> str:
    """The help of every word, and the environment."""
    parts = ["# The command line", "", "Generated from the code by `make docs`.", ""]
    parts += ['Exit codes: 0 done; 1 the answer is "no"; 2 wrong use or bad input.', ""]
    parts += ["| variable | default | use |", "|---|---|---|"]
    parts += [f"| `{s.name}` | {s.default} | {s.help} |" for s in SETTINGS]
    runner = CliRunner(env={"COLUMNS": "90", "TERMINAL_WIDTH": "90"})
    for word in WORDS:
        shown = runner.invoke(app, [word, "--help"], prog_name="burnish", terminal_width=90)
        help_text = "\n".join(line.rstrip() for line in shown.output.splitlines()).strip()
        parts += ["", f"## burnish {word}", "", "```", help_text, "```"]
    return "\n".join(parts) + "\n"


def data_page() -> str:
    """The page on data: what is between `<!-- name -->` marks' lines comes from the code."""
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    tables = {
        "formats": ["| format | a line of it |", "|---|---|"]
        + [f"| {name} | `{shape.example}` |" for name, shape in FORMATS.items()],
        "findings": ["| code | severity | what it means | what to do |", "|---|---|---|---|"]
        + [f"| `{c}` | {s} | {m} | {f} |" for c, (s, m, f) in CODES.items()],
        "audit": ["| code | what it means | what to do |", "|---|---|---|"]
        + [f"| `{code}` | {message} | {fix} |" for code, (message, fix) in CHECKS.items()],
    }
    for name, rows in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, _, rest = page.partition(begin)
        rest = rest.partition(end)[2] if end in rest else rest
        page = head + "\n".join([begin, "", *rows, "", end]) + rest
    return page


def olive_page() -> str:
    """The page on Olive's commands: its head is written by hand, the flags come from the code."""
    head, mark, _ = (ROOT / "docs/olive.md").read_text(encoding="utf-8").partition("<!-- flags -->")
    parts = [head + mark]
    for name, (_, flags) in COMMANDS.items():
        parts += ["", f"### {name}", "", "| flag | here |", "|---|---|"]
        parts += [
            f"| `{flag}` | {_fate(how.ignored, how.refused)} |" for flag, how in flags.items()
        ]
    parts += ["", "### Elsewhere", "", "| command | instead |", "|---|---|"]
    parts += [f"| `{name}` | {instead} |" for name, instead in ALTERNATIVES.items()]
    return "\n".join(parts) + "\n"


def keys_page(name: str, keys: Mapping[str, KeyRule]) -> str:
    """The page on another tool's file: its head is written by hand, the keys come from the code."""
    page = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    head, mark, _ = page.partition("<!-- keys -->")
    parts = [head + mark, "", "| key | here |", "|---|---|"]
    parts += [f"| `{key}` | {_meaning(meant)} |" for key, meant in keys.items()]
    return "\n".join(parts) + "\n"


def _meaning(key: KeyRule) -> str:
    if key.ignored:
        return f"changes nothing, and says so: {key.ignored}"
    if not key.values:
        return f"`{key.field}`" if key.field else "see above"
    values = ", ".join(
        f"`{json.dumps(there)}`" + (f": `{key.field}={here}`" if here else "")
        for there, here in key.values
    )
    return f"{values}; else refused: {key.refused}"


def _fate(ignored: str, refused: str) -> str:
    if refused:
        return f"refused: {refused}"
    return f"changes nothing, and says so: {ignored}" if ignored else "as in Olive"


PAGES = {
    "docs/olive.md": olive_page,
    "docs/deepspeed.md": lambda: keys_page("deepspeed", deepspeed.KEYS),
    "docs/autotrain.md": lambda: keys_page("autotrain", autotrain.KEYS),
    "docs/kaito.md": lambda: keys_page("kaito", kaito.KEYS),
    "docs/conformance.md": conformance_page,
    "docs/data.md": data_page,
    "docs/recipe.md": recipe_page,
    "docs/commands.md": commands_page,
    "docs/burnish.schema.json": lambda: json.dumps(recipe_schema(), indent=2) + "\n",
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), encoding="utf-8")
        typer.echo(f"wrote {name}")
