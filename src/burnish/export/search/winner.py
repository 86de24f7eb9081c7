"""`burnish serve RUN --best`: the export that won the run's last search on this machine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import BadRecipe, NotFound
from burnish.core.hardware import hardware
from burnish.core.journal import read_journal
from burnish.core.progress import say
from burnish.core.runs import Run, find_run
from burnish.models.artifact import open_artifact

#: What a search found, in the folder that it leaves.
SEARCH_FILE = "search.json"
#: The event of a run that says where.
_SEARCH_EVENT = "searched"


@dataclass(frozen=True, slots=True)
class SearchWinner:
    """What won, why, and how it was measured: fields of the recipe's `serve`, and torch's threads
    (0 where the engine has a process of its own)."""

    run: str
    folder: Path
    why: str
    serve: Mapping[str, Any]
    torch_threads: int

    @property
    def changes(self) -> list[str]:
        """The fields as changes to a recipe."""
        return [f"serve.{field}={json.dumps(value)}" for field, value in self.serve.items()]


def resolve_best(
    named: Sequence[str], aliases: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """What to serve in place of the one run that is named: the folder, the names that the run would
    have, and the changes of the recipe that it was measured with. Says why; sets torch's threads.

    Raises BadRecipe for several runs, NotFound and BadData as `best_of` does.
    """
    if len(named) != 1:
        raise BadRecipe("--best serves one run.", "burnish serve RUN --best")
    found = find_winner(find_run(named[0]))
    say(f"{found.folder}: {found.why}")
    if found.torch_threads:
        torch.set_num_threads(found.torch_threads)
    folder = str(found.folder)
    meant = [f"{name}={folder}" for name in dict.fromkeys([found.run, *named])]
    for alias in aliases:
        name, equals, model = alias.partition("=")
        own = model in (found.run, *named)
        meant.append(f"{name}={folder}" if own and equals else alias)
    return [folder], meant, found.changes


def record_search(run: Run, folder: Path) -> None:
    """Write down in the run where a search of this machine left its result."""
    place = folder.relative_to(run.path) if folder.is_relative_to(run.path) else folder
    run.events.write(event=_SEARCH_EVENT, folder=str(place), machine=hardware())


def find_winner(run: Run) -> SearchWinner:
    """The pick of the run's last search on this machine.

    Raises NotFound if there was none here, it picked nothing, or its folder is gone; BadData if the
    folder isn't what was measured.
    """
    again = f"burnish export {run.id} --for-this-machine"
    events = read_journal(run.path / "events.jsonl")
    searches = [event for event in events if event["event"] == _SEARCH_EVENT]
    here = hardware()
    own = [event for event in searches if event["machine"] == here]
    if not own:
        raise NotFound(
            f"{run.id} has no search on this machine{_machine_difference(searches, here)}.", again
        )
    folder = run.path / own[-1]["folder"]
    if not (folder / SEARCH_FILE).exists():
        raise NotFound(f"The result of {run.id}'s last search is gone from {folder}.", again)
    found = json.loads((folder / SEARCH_FILE).read_text(encoding="utf-8"))
    if found["pick"] is None:
        raise NotFound(
            f"The last search of {run.id} on this machine picked nothing: "
            f"{' '.join(found['against'])}",
            f"Serve the run itself (burnish serve {run.id}), or search with other limits.",
        )
    open_artifact(folder)
    why = f"{found['pick']} has the best {found['best']} of {len(found['candidates'])} candidates"
    return SearchWinner(run.id, folder, f"{why} that were tried on this machine", **found["served"])


def _machine_difference(searches: list[Any], here: Mapping[str, str]) -> str:
    """What is otherwise here than on the machine of the last search."""
    if not searches:
        return ""
    there = searches[-1]["machine"]
    other = [f"{key} {there.get(key)} there, {here[key]} here" for key in here
             if there.get(key) != here[key]]  # fmt: skip
    return f", only on another one ({'; '.join(other)})"
