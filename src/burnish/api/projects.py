"""Start a project: an example with its data, or a recipe to fill in."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.core.atomic import atomic_folder, write_atomic
from burnish.core.errors import AlreadyThere, NotFound
from burnish.core.recipe.commented import commented_recipe

#: Files of the project without an example, and where its rows are expected.
_RECIPE, _ROWS = "burnish.yaml", "rows.jsonl"

_HEAD = """\
# Every field has a default; set one by removing the `# ` before it. Lines with ## explain.
#   burnish check burnish.yaml       what is wrong with the rows, and the fix
#   burnish compare burnish.yaml     is a fine-tune worth it?

"""

_README = """\
# A burnish project

1. Put your rows into `rows.jsonl`, one JSON object a line. Any of these shapes will do:

   ```
   {"text": "The lamp is dark.", "label": "repair"}
   {"prompt": "When is a repair free?", "completion": "In the first two years."}
   {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
   ```

   CSV, TSV and Parquet are read too: name the file in `burnish.yaml`.
2. Fetch the base model: `burnish pull smollm2-135m-instruct`.
3. Check the rows: `burnish check burnish.yaml`.
4. Find out whether a fine-tune is worth it: `burnish compare burnish.yaml`.
5. Talk to it: `burnish chat last`; serve it: `burnish serve last`.

What burnish makes (runs, models trained, indexes) goes into `.burnish`.
"""


@dataclass(frozen=True, slots=True)
class Project:
    """What `init` wrote: the folder, its files and recipes (relative paths)."""

    folder: Path
    example: str | None
    files: tuple[str, ...]
    recipes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**asdict(self), "folder": str(self.folder)}


def init(folder: Path | str, example: str | None = None) -> Project:
    """Start a project in a folder that is empty or does not exist, whole or not at all.

    With `example`, its data, recipes and documents; without, a recipe whose fields are described in
    comments. Raises AlreadyThere for a folder with something in it, NotFound for an unknown
    example.
    """
    place = Path(folder).absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise AlreadyThere(
            f"{place} is not an empty folder.", "Name a new folder, or an empty one."
        )
    source = _example(example) if example else None
    with _filled(place) as draft:
        if source:
            hidden = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(source, draft, ignore=hidden, dirs_exist_ok=True)
        else:
            write_atomic(draft / _RECIPE, _HEAD + commented_recipe({"data": {"train": _ROWS}}))
            write_atomic(draft / "README.md", _README)
            write_atomic(draft / ".gitignore", ".burnish/\n")
    files = sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())
    return Project(place, example, tuple(files), tuple(f for f in files if f.endswith(".yaml")))


def examples() -> list[str]:
    """Return the names that `init` knows."""
    return sorted(path.parent.name for path in _examples_folder().glob("*/README.md"))


def _example(name: str) -> Path:
    if name not in examples():
        raise NotFound(f"There is no example `{name}`.", f"Known names: {', '.join(examples())}.")
    return _examples_folder() / name


def _examples_folder() -> Path:
    """The examples inside an installed package, or those of the clone that this file is in."""
    package = Path(__file__).parents[1]
    installed = package / "examples"
    return installed if installed.is_dir() else package.parents[1] / "examples"


@contextmanager
def _filled(place: Path) -> Iterator[Path]:
    """Yield a draft folder whose content becomes that of `place` only if the block succeeds."""
    if not place.exists():
        with atomic_folder(place) as draft:
            yield draft
        return
    # An empty folder is filled and not replaced: a shell may stand in it (`burnish init .`).
    with tempfile.TemporaryDirectory(prefix=".burnish-init-", dir=place) as name:
        yield Path(name)
        for entry in sorted(Path(name).iterdir()):
            entry.rename(place / entry.name)
