"""The trainings of a search: one after another in this process, or several at once.

Whoever trains knows nothing of the study. Several at once are processes of their own; what they
measure is read from their folders, and one that falls behind is stopped from here.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from burnish.core.errors import BurnishError, DoesNotFit, TrainingStopped
from burnish.core.executors.executor import Executor
from burnish.core.executors.process import MOST_DEATHS, Child, Task, fate
from burnish.core.journal import read_journal
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.train.run import train_in
from burnish.train.search.study import Attempt, Pruned

#: Seconds between two looks at the processes.
_TICK = 0.5
#: Faults that end one training and not the search.
_GIVEN_UP = {fault.__name__: fault for fault in (DoesNotFit, TrainingStopped)}


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a search; `attempt` is its trial, if it is one."""

    recipe: Recipe
    folder: Path
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A training's best validation loss, or the fault that it was given up for."""

    training: Training
    loss: float | None
    fault: BurnishError | None = None


Trainer = Callable[[Iterator[Training]], Iterator[Ended]]


@dataclass(frozen=True, slots=True)
class InTurn:
    """Trains in this process, one after another."""

    dataset: Dataset

    def __call__(self, trainings: Iterator[Training]) -> Iterator[Ended]:
        """Train each as soon as the one before it was dealt with."""
        for one in trainings:
            watch = one.attempt.watch if one.attempt else None
            try:
                report = train_in(one.folder, one.recipe, self.dataset, watch)
            except (Pruned, *_GIVEN_UP.values()) as fault:
                yield Ended(one, None, fault)
            else:
                yield Ended(one, report.best_validation_loss)


@dataclass(frozen=True, slots=True)
class Abreast:
    """Trains up to `most` at once, each in a process; their logs are in folders of `folder`."""

    executor: Executor
    most: int
    folder: Path

    def __call__(self, trainings: Iterator[Training]) -> Iterator[Ended]:
        """Train; those that end first come first. Raises what is wrong with more than one."""
        at_work: list[_Process] = []
        try:
            while True:
                while len(at_work) < self.most and (one := next(trainings, None)):
                    if report := Run(one.folder).read("report.json"):  # by an earlier life
                        yield Ended(one, report["best_validation_loss"])
                    else:
                        own = self.folder / one.folder.name
                        at_work.append(_Process(one, self.executor, own))
                if not at_work:
                    return
                for process in list(at_work):
                    if ended := process.look():
                        process.child.stop()
                        at_work.remove(process)
                        yield ended
                time.sleep(_TICK)
        finally:
            for process in at_work:
                process.child.stop()


@dataclass
class _Process:
    """A process for one training, begun again if it dies. Two of one folder wait for each other."""

    training: Training
    executor: Executor
    folder: Path
    child: Child = field(init=False)
    outcome: Path = field(init=False)
    heard: set[int] = field(default_factory=set)
    deaths: int = 0
    died_at: int = 0

    def __post_init__(self) -> None:
        self.training.recipe.save(self.folder / "recipe.yaml")
        self._start()

    def _start(self) -> None:
        self.outcome = self.folder / f"outcome-{secrets.token_hex(4)}.json"
        files = (self.folder / "recipe.yaml", self.training.folder, self.outcome)
        task = Task(
            "burnish.train.search.worker", [str(f) for f in files], self.folder / "trainer.log"
        )
        self.child = self.executor.start(task)

    def look(self) -> Ended | None:
        """How the training has ended, if it has. Raises the fault that isn't this one's alone."""
        code = self.child.poll()
        try:
            self._hear()
        except Pruned as fault:
            return Ended(self.training, None, fault)
        if code is None:
            return None
        if code == 0:
            report = Run(self.training.folder).read("report.json")
            return Ended(self.training, report["best_validation_loss"])
        why = self._said() or self._died(code)
        return Ended(self.training, None, why) if why else None

    def _hear(self) -> None:
        """Tell the trial of validations that are new. Raises Pruned."""
        if not self.training.attempt:
            return
        for entry in read_journal(self.training.folder / "metrics.jsonl"):
            if "validation_loss" in entry and entry["step"] not in self.heard:
                self.heard.add(entry["step"])
                self.training.attempt.watch(entry["step"], entry["validation_loss"])

    def _said(self) -> BurnishError | None:
        """The fault that the process wrote down. Raises it if every training would end so."""
        if not self.outcome.exists():
            return None
        told = json.loads(self.outcome.read_text(encoding="utf-8"))
        if told["kind"] in _GIVEN_UP:
            return _GIVEN_UP[told["kind"]](told["what"], told["fix"])
        raise BurnishError(told["what"], told["fix"])

    def _died(self, code: int) -> BurnishError | None:
        """Begin again; or, after many deaths without getting further, the reason to give up."""
        steps = [entry["step"] for entry in read_journal(self.training.folder / "metrics.jsonl")]
        got_to = max(steps, default=0)
        self.deaths = self.deaths + 1 if got_to <= self.died_at else 1
        self.died_at = max(self.died_at, got_to)
        why = f"The process of {self.training.folder.name} ended ({fate(code)})"
        self.child.stop()
        if self.deaths >= MOST_DEATHS:
            said = f"What it said: {self.folder / 'trainer.log'}"
            return TrainingStopped(f"{why} {self.deaths} times without getting further.", said)
        say(f"{why}; it goes on from its last checkpoint.")
        self._start()
        return None
