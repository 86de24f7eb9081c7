"""Run folders: `<workspace>/runs/<id>/` is the source of truth about a run.

recipe.yaml   as resolved        inputs.json    hashes of the inputs, versions
events.jsonl  what happened      metrics.jsonl  metrics logged during the run
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
    """One run folder. It is complete from the start: recipe and inputs are in it."""

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
        """The events, in order."""
        return Journal(self.path / "events.jsonl")

    @property
    def metrics(self) -> Journal:
        """The metrics logged during the run."""
        return Journal(self.path / "metrics.jsonl")

    @property
    def artifact(self) -> Path:
        """The trained model's folder; it exists only once it is complete."""
        return self.path / "artifact"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock. Raises Busy if another process does; a dead process frees it."""
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
        """Return one of the run's JSON files, or an empty mapping."""
        file = self.path / name
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    def read_list(self, name: str) -> list[dict[str, Any]]:
        """Return one of the run's JSON files that holds a list, or an empty list."""
        file = self.path / name
        return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


#: The names that `new_run` gives begin with the time.
_RUN_ID = re.compile(r"\d{8}-\d{6}-")


def runs_folder() -> Path:
    """Return the folder of this workspace's runs."""
    return workspace() / "runs"


def new_run(verb: str, recipe: Recipe, inputs: Mapping[str, Any], out: Path | None = None) -> Run:
    """Create a run folder named by time and verb (or `out`), with its recipe and inputs.

    Raises AlreadyThere if `out` exists and isn't an empty folder.
    """
    path = out or runs_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{verb}-{secrets.token_hex(2)}"
    if path.exists() and any(path.iterdir()):
        raise AlreadyThere(f"{path} already exists.", "Choose another --out, or remove it.")
    path.mkdir(parents=True, exist_ok=True)
    recipe.save(path / "recipe.yaml")
    write_json(path / "inputs.json", {**inputs, "versions": versions()})
    run = Run(path.absolute())
    run.events.write(event="created", verb=verb)
    return run


def reopen_or_new_run(
    verb: str, recipe: Recipe, inputs: Mapping[str, Any], out: Path | None = None
) -> Run:
    """Return the run at `out` if it has the same recipe and no result yet; else create one.

    Raises AlreadyThere as `new_run` does.
    """
    if out and (out / "inputs.json").exists() and not (out / "report.json").exists():
        run = Run(out.absolute())
        if run.recipe == recipe:
            say(f"Continuing {run.id}")
            return run
    return new_run(verb, recipe, inputs, out)


def find_run(name: str, unfinished: bool = False) -> Run:
    """Find a run by folder, id, unique prefix of an id, or `last`. Raises NotFound.

    `last` is the newest run that holds a model, or, if `unfinished`, the newest training without
    one yet; trainings inside a larger run are found by their ids only.
    """
    if (Path(name) / "recipe.yaml").exists():
        return Run(Path(name).absolute())
    runs = list_runs()
    if name == "last" and runs:
        top_level = [run for run in runs if _RUN_ID.match(run.id)] or runs
        wanted = [run for run in top_level if _is_wanted(run, unfinished)] or top_level
        return wanted[-1]
    matches = [run for run in runs if run.id == name] or [r for r in runs if r.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise NotFound(f"`{name}` matches {len(matches)} runs.", "Write more of the id.")
    raise NotFound(f"There is no run `{name}` in {runs_folder()}.", "`burnish runs` lists them.")


def _is_wanted(run: Run, unfinished: bool) -> bool:
    if unfinished:
        return "-train-" in run.id and not run.artifact.exists()
    return run.artifact.exists()


def list_runs() -> list[Run]:
    """Return all runs of this workspace, oldest first."""
    folder = runs_folder()
    if not folder.exists():
        return []
    folders = [path for path in sorted(folder.iterdir()) if (path / "recipe.yaml").exists()]
    return [Run(path) for path in sorted(folders, key=lambda path: _created_at(path))]


def _created_at(path: Path) -> float:
    """Return when a run was created, in seconds; its inputs are written once."""
    file = path / "inputs.json"
    return file.stat().st_mtime if file.exists() else 0.0


def versions() -> dict[str, str]:
    """Return what repeating the run needs: versions of burnish, Python and libraries, machine."""
    names = ("torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "burnish": __version__,
        **{name: importlib.metadata.version(name) for name in names},
    }
