"""The house keeps its shape: floors, budgets, names, and a quick `--help`."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import burnish
from burnish.core.recipe.recipe import recipe_sections
from burnish.core.settings import SETTINGS

PACKAGE = Path(burnish.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FILES
}
FORBIDDEN = {"utils", "util", "common", "misc", "helpers", "manager"}
HEAVY = ("torch", "transformers", "peft", "accelerate", "polars", "scipy", "fastapi")


def functions(file):
    tree = ast.parse(file.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_is_one_idea_of_bounded_size(file):
    assert file.stem not in FORBIDDEN
    assert len(file.read_text().splitlines()) <= 400
    assert len(file.relative_to(PACKAGE).parts) <= 3, "depth is package, room, idea, file"
    assert ast.get_docstring(ast.parse(file.read_text())), "say what the file is"


def test_a_folder_holds_at_most_twenty_files():
    """`cli` has one file a word of the command line, however many words there are."""
    folders = {file.parent for file in FILES} - {PACKAGE / "cli"}
    counts = {folder: len([*folder.glob("*.py")]) - 1 for folder in folders}

    assert not {str(folder): count for folder, count in counts.items() if count > 20}


def test_no_public_class_name_is_given_twice():
    names = Counter(
        node.name
        for file in FILES
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )

    assert not [name for name, count in names.items() if count > 1]


def imports_of(file):
    """The package's modules that a file names anywhere: inside functions and for types too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_no_file_imports_itself_by_way_of_others():
    sorter = TopologicalSorter(
        {name: {*imports_of(file)} & {*MODULES} - {name} for name, file in MODULES.items()}
    )

    sorter.prepare()  # raises CycleError, which names the files


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_function_is_short_and_takes_few_arguments(file):
    for function in functions(file):
        assert function.end_lineno - function.lineno < 60, function.name
        arguments = function.args
        names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        own = [name for name in names if name.arg not in ("self", "cls")]
        is_route_or_word = file.parent.name in ("cli",)
        assert len(own) <= 6 or is_route_or_word, function.name


def test_the_command_line_imports_the_api_and_core_only():
    for file in (PACKAGE / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            named = (
                [getattr(node, "module", None) or ""] if isinstance(node, ast.ImportFrom) else []
            )
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            rooms = {name.split(".")[1] for name in named if name.startswith("burnish.")}
            assert rooms <= {"api", "core", "cli"}, f"{file.name}:{node.lineno}"


def test_only_the_settings_read_the_environment():
    readers = [f for f in FILES if "os.environ" in f.read_text() or "getenv" in f.read_text()]

    assert [file.name for file in readers] in ([], ["settings.py"])


def test_a_broad_except_stands_only_at_the_edges():
    # A library may end in anything over a broken document, which is then that document's fault.
    edges = {"main.py", "app.py", "readers.py"}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ExceptHandler) and file.name not in edges:
                caught = getattr(node.type, "id", None)
                assert caught != "Exception" and node.type is not None, f"{file}:{node.lineno}"


@pytest.mark.parametrize("section", recipe_sections(), ids=lambda section: section.__name__)
def test_every_field_of_the_recipe_explains_itself(section):
    assert section.__doc__
    for name, field in section.model_fields.items():
        if name != "kind" or field.description:
            assert field.description and field.description.endswith("."), name


def test_every_setting_explains_itself():
    assert all(setting.help.endswith(".") and setting.default for setting in SETTINGS)


def loads_nothing_heavy(arguments, heavy=HEAVY):
    """What a command says to a person and to other programs, proved to need no heavy library."""
    program = (
        "import sys; from burnish.cli.main import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    *said, loaded = done.stderr.strip().splitlines()
    assert loaded == "[]"
    return "\n".join(said), done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["recipe"]])
def test_help_and_recipe_import_no_heavy_library(arguments):
    assert loads_nothing_heavy(arguments)[1]


@pytest.mark.parametrize(
    "arguments",
    [
        *(["chat", "nothing"], ["serve", "nothing"], ["serve", "--alias", "gpt-4o=nothing"]),
        *([word, "--train", __file__, "--model", "nothing"] for word in ("train", "compare")),
        ["evaluate", "--train", __file__, "--source", "nothing"],
    ],
)
def test_a_name_that_is_wrong_is_said_without_one(arguments):
    assert "burnish pull nothing" in loads_nothing_heavy(arguments)[0]


@pytest.mark.parametrize("word", ["train", "compare"])
def test_a_fault_in_the_rows_is_said_without_one(word, tiny, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{not json}\n")

    words = [word, "--train", f"{tmp_path}/bad.jsonl", "--model", "tiny"]
    assert "is not JSON" in loads_nothing_heavy(words, ["torch", "transformers", "peft"])[0]
