"""Run folders: `<workspace>/runs/<id>/` is the truth about a run.

recipe.yaml   as resolved        inputs.json    hashes of what went in, versions
events.jsonl  what happened      metrics.jsonl  what was measured on the way
checkpoints/  while training     artifact/      the trained model
report.json   the result         report.html    the page to show
lock          held by the process that works on it
"""

import importlib.metadata
import json
import platform
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from burnish import __version__
from burnish.core.atomic import write_json
from burnish.core.errors import AlreadyThere, Busy, NotFound
from burnish.core.journal import Journal
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe, load_recipe
from burnish.core.settings import workspace


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder. The folder is made complete at once: recipe and inputs are in it."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def recipe(self) -> Recipe:
        """The recipe as resolved when the run began, by whatever version wrote it."""
        return load_recipe(self.path / "recipe.yaml", noted=False)

    @property
    def events(self) -> Journal:
        """What happened, in order."""
        return Journal(self.path / "events.jsonl")

    @property
    def metrics(self) -> Journal:
        """What was measured on the way."""
        return Journal(self.path / "metrics.jsonl")

    @property
    def artifact(self) -> Path:
        """The trained model's folder; it exists only when it is whole."""
        return self.path / "artifact"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Work on the run alone. Raises Busy if another process does; its death frees the run."""
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise Busy(
                f"Another process is working on {self.id}.", "Wait for it, or stop it first."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def read(self, name: str) -> dict[str, Any]:
        """One of the run's JSON files, or an empty mapping."""
        file = self.path / name
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    def read_list(self, name: str) -> list[dict[str, Any]]:
        """One of the run's JSON files that holds a list, or an empty list."""
        file = self.path / name
        return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


#: The names that `new_run` gives, by time.
_RUN_ID = re.compile(r"\d{8}-\d{6}-")


def runs_folder() -> Path:
    """Where this workspace keeps its runs."""
    return workspace() / "runs"


def new_run(verb: str, recipe: Recipe, inputs: Mapping[str, Any], out: Path | None = None) -> Run:
    """Make a run folder named by time and verb (or `out`), with its recipe and inputs written.

    Raises AlreadyThere if `out` exists and isn't an empty folder.
    """
    path = out or runs_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{verb}-{secrets.token_hex(2)}"
    if path.exists() and any(path.iterdir()):
        raise AlreadyThere(f"{path} exists already.", "Choose another --out, or remove it.")
    path.mkdir(parents=True, exist_ok=True)
    recipe.save(path / "recipe.yaml")
    write_json(path / "inputs.json", {**inputs, "versions": versions()})
    run = Run(path.absolute())
    run.events.write(event="created", verb=verb)
    return run


def reopen_or_new_run(
    verb: str, recipe: Recipe, inputs: Mapping[str, Any], out: Path | None = None
) -> Run:
    """The run at `out` if it was begun with the same recipe and has no result yet; else a new one.

    Raises AlreadyThere as `new_run` does.
    """
    if out and (out / "inputs.json").exists() and not (out / "report.json").exists():
        run = Run(out.absolute())
        if run.recipe == recipe:
            say(f"Going on with {run.id}")
            return run
    return new_run(verb, recipe, inputs, out)


def find_run(name: str, unfinished: bool = False) -> Run:
    """A run by folder, id, unique beginning of an id, or `last`. Raises NotFound.

    `last` is the newest run that holds a model, or, if `unfinished`, the newest training that
    doesn't yet; trainings that are a part of something larger are meant by their ids only.
    """
    if (Path(name) / "recipe.yaml").exists():
        return Run(Path(name).absolute())
    runs = list_runs()
    if name == "last" and runs:
        own = [run for run in runs if _RUN_ID.match(run.id)] or runs
        wanted = [run for run in own if _is_wanted(run, unfinished)] or own
        return wanted[-1]
    found = [run for run in runs if run.id == name] or [r for r in runs if r.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f"`{name}` fits {len(found)} runs.", "Write more of the id.")
    raise NotFound(f"There is no run `{name}` in {runs_folder()}.", "`burnish runs` lists them.")


def _is_wanted(run: Run, unfinished: bool) -> bool:
    if unfinished:
        return "-train-" in run.id and not run.artifact.exists()
    return run.artifact.exists()


def list_runs() -> list[Run]:
    """All runs of this workspace, oldest first."""
    folder = runs_folder()
    if not folder.exists():
        return []
    found = [path for path in sorted(folder.iterdir()) if (path / "recipe.yaml").exists()]
    return [Run(path) for path in sorted(found, key=lambda path: _created_at(path))]


def _created_at(path: Path) -> float:
    """When a run was made, in seconds; its inputs are written once."""
    file = path / "inputs.json"
    return file.stat().st_mtime if file.exists() else 0.0


def versions() -> dict[str, str]:
    """What is needed to repeat the run: burnish, Python, machine, and the libraries that count."""
    names = ("torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "burnish": __version__,
        **{name: importlib.metadata.version(name) for name in names},
    }
