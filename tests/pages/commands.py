"""The reference of the command line: a page a group of words, from each word's `--help`."""

from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.core.settings import SETTINGS
from tests.pages import NOTE, table, text_of

FOLDER = "docs/reference/commands"
WORDS = sorted(str(command.name) for command in app.registered_commands if not command.hidden)
#: Page → its title and the words on it. What stands on no page comes to the last one.
GROUPS = {
    "data": ("Data and models", ("check", "pull", "models")),
    "train": ("Training", ("train", "forecast", "merge")),
    "evaluate": ("Evaluation", ("evaluate", "compare")),
    "distill": ("Distillation", ("distill", "distil", "review")),
    "export": ("Export", ("export",)),
    "retrieval": ("Retrieval", ("index", "search", "ask")),
    "serve": ("Serving", ("serve", "chat", "key")),
    "migrate": ("Migration", ("olive", "import-openai")),
    "workspace": ("Workspace", ()),
}


def command_pages() -> dict[str, str]:
    """Path → text: an index and a page a group."""
    grouped = {word for _, words in GROUPS.values() for word in words}
    pages, lines = {}, []
    for page, (title, listed) in GROUPS.items():
        here = [w for w in listed if w in WORDS] or [w for w in WORDS if w not in grouped]
        lines += [(f"[`burnish {w}`]({page}.md#burnish-{w})", _first_line(w)) for w in here]
        parts = [line for word in here for line in _word(word)]
        pages[f"{FOLDER}/{page}.md"] = text_of(f"# Commands: {title.lower()}", "", NOTE, *parts)
    return {f"{FOLDER}/index.md": _index(lines), **pages}


def _index(lines: list[tuple[str, str]]) -> str:
    settings = [(f"`{s.name}`", s.default, s.help) for s in SETTINGS]
    return text_of(
        "# Command line",
        "",
        NOTE,
        "",
        "The result goes to stdout, progress to stderr; `--json` prints the result as JSON.",
        'Exit codes: 0 done; 1 the answer is "no"; 2 wrong use or bad input.',
        "",
        *table(["command", "what it does"], lines),
        "",
        "## Environment variables",
        "",
        *table(["variable", "default", "use"], settings),
    )


def _word(word: str) -> list[str]:
    return ["", f"## burnish {word}", "", "```", _help(word), "```"]


def _help(word: str) -> str:
    runner = CliRunner(env={"COLUMNS": "90", "TERMINAL_WIDTH": "90"})
    shown = runner.invoke(app, [word, "--help"], prog_name="burnish", terminal_width=90)
    return "\n".join(line.rstrip() for line in shown.output.splitlines()).strip()


def _first_line(word: str) -> str:
    """The first sentence of a word's help: what stands between the usage and an empty line."""
    paragraph = _help(word).split("\n\n")[1]
    return " ".join(paragraph.split())
