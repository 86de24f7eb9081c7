"""`burnish serve RUN --best`: serve the export that won the run's last search on this machine."""

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

#: The search's result, in its output folder.
SEARCH_FILE = "search.json"
#: The event of a run that records that folder.
_SEARCH_EVENT = "searched"


@dataclass(frozen=True, slots=True)
class SearchWinner:
    """The winner, why, and how it was measured: fields of the recipe's `serve`, and torch's threads
    (0 for an engine in its own process)."""

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
    """Resolve the one named run to what is served instead: (sources, aliases, recipe changes).

    The source is the winner's folder, aliased to the run's names, with the settings it was measured
    with. Announces why and sets torch's threads. Raises BadRecipe for several runs, NotFound and
    BadData as `find_winner` does.
    """
    if len(named) != 1:
        raise BadRecipe("--best takes exactly one run.", "burnish serve RUN --best")
    winner = find_winner(find_run(named[0]))
    say(f"{winner.folder}: {winner.why}")
    if winner.torch_threads:
        torch.set_num_threads(winner.torch_threads)
    folder = str(winner.folder)
    resolved = [f"{name}={folder}" for name in dict.fromkeys([winner.run, *named])]
    for alias in aliases:
        name, equals, model = alias.partition("=")
        is_run = model in (winner.run, *named)
        resolved.append(f"{name}={folder}" if is_run and equals else alias)
    return [folder], resolved, winner.changes


def record_search(run: Run, folder: Path) -> None:
    """Record in the run where a search on this machine left its result."""
    path = folder.relative_to(run.path) if folder.is_relative_to(run.path) else folder
    run.events.write(event=_SEARCH_EVENT, folder=str(path), machine=hardware())


def find_winner(run: Run) -> SearchWinner:
    """Return the pick of the run's last search on this machine.

    Raises NotFound if there was none here, it picked nothing, or its folder is gone; BadData if the
    folder was changed.
    """
    again = f"burnish export {run.id} --for-this-machine"
    events = read_journal(run.path / "events.jsonl")
    searches = [event for event in events if event["event"] == _SEARCH_EVENT]
    here = hardware()
    local = [event for event in searches if event["machine"] == here]
    if not local:
        raise NotFound(
            f"{run.id} has no search on this machine{_machine_difference(searches, here)}.", again
        )
    folder = run.path / local[-1]["folder"]
    if not (folder / SEARCH_FILE).exists():
        raise NotFound(f"The result of {run.id}'s last search is gone from {folder}.", again)
    result = json.loads((folder / SEARCH_FILE).read_text(encoding="utf-8"))
    if result["pick"] is None:
        raise NotFound(
            f"The last search of {run.id} on this machine picked nothing: "
            f"{' '.join(result['against'])}",
            f"Serve the run itself (burnish serve {run.id}), or search with other limits.",
        )
    open_artifact(folder)
    why = (
        f"{result['pick']} has the best {result['best']} of {len(result['candidates'])} candidates"
    )
    return SearchWinner(
        run.id, folder, f"{why} that were tried on this machine", **result["served"]
    )


def _machine_difference(searches: list[Any], here: Mapping[str, str]) -> str:
    """Describe how this machine differs from that of the last search."""
    if not searches:
        return ""
    there = searches[-1]["machine"]
    other = [f"{key} {there.get(key)} there, {here[key]} here" for key in here
             if there.get(key) != here[key]]  # fmt: skip
    return f", only on another one ({'; '.join(other)})"
