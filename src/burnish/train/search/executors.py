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
from burnish.core.executors.process import MAX_CRASHES, Process, ProcessTask, describe_exit
from burnish.core.journal import read_journal
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.train.run import train_in
from burnish.train.search.study import Pruned, Trial

#: Seconds between two looks at the processes.
_TICK = 0.5
#: Faults that end one training and not the search.
_TRIAL_FAULTS = {fault.__name__: fault for fault in (DoesNotFit, TrainingStopped)}


@dataclass(frozen=True, slots=True)
class TrialTask:
    """One training of a search; `attempt` is its trial, if it is one."""

    recipe: Recipe
    folder: Path
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A training's best validation loss, or the fault that it was given up for."""

    task: TrialTask
    loss: float | None
    fault: BurnishError | None = None


TrialRunner = Callable[[Iterator[TrialTask]], Iterator[TrialResult]]


@dataclass(frozen=True, slots=True)
class SerialTrials:
    """Trains in this process, one after another."""

    dataset: Dataset

    def __call__(self, trainings: Iterator[TrialTask]) -> Iterator[TrialResult]:
        """Train each as soon as the one before it was dealt with."""
        for one in trainings:
            watch = one.trial.report if one.trial else None
            try:
                report = train_in(one.folder, one.recipe, self.dataset, watch)
            except (Pruned, *_TRIAL_FAULTS.values()) as fault:
                yield TrialResult(one, None, fault)
            else:
                yield TrialResult(one, report.best_validation_loss)


@dataclass(frozen=True, slots=True)
class ParallelTrials:
    """Trains up to `most` at once, each in a process; their logs are in folders of `folder`."""

    executor: Executor
    most: int
    folder: Path

    def __call__(self, trainings: Iterator[TrialTask]) -> Iterator[TrialResult]:
        """Train; those that end first come first. Raises what is wrong with more than one."""
        at_work: list[_TrialProcess] = []
        try:
            while True:
                while len(at_work) < self.most and (one := next(trainings, None)):
                    if report := Run(one.folder).read("report.json"):  # by an earlier life
                        yield TrialResult(one, report["best_validation_loss"])
                    else:
                        own = self.folder / one.folder.name
                        at_work.append(_TrialProcess(one, self.executor, own))
                if not at_work:
                    return
                for process in list(at_work):
                    if ended := process.poll():
                        process.process.stop()
                        at_work.remove(process)
                        yield ended
                time.sleep(_TICK)
        finally:
            for process in at_work:
                process.process.stop()


@dataclass
class _TrialProcess:
    """A process for one training, begun again if it dies. Two of one folder wait for each other."""

    task: TrialTask
    executor: Executor
    folder: Path
    process: Process = field(init=False)
    outcome: Path = field(init=False)
    reported_steps: set[int] = field(default_factory=set)
    crashes: int = 0
    crashed_at_step: int = 0

    def __post_init__(self) -> None:
        self.task.recipe.save(self.folder / "recipe.yaml")
        self._start()

    def _start(self) -> None:
        self.outcome = self.folder / f"outcome-{secrets.token_hex(4)}.json"
        files = (self.folder / "recipe.yaml", self.task.folder, self.outcome)
        task = ProcessTask(
            "burnish.train.search.worker", [str(f) for f in files], self.folder / "trainer.log"
        )
        self.process = self.executor.start(task)

    def poll(self) -> TrialResult | None:
        """How the training has ended, if it has. Raises the fault that isn't this one's alone."""
        code = self.process.poll()
        try:
            self._report_validations()
        except Pruned as fault:
            return TrialResult(self.task, None, fault)
        if code is None:
            return None
        if code == 0:
            report = Run(self.task.folder).read("report.json")
            return TrialResult(self.task, report["best_validation_loss"])
        why = self._read_fault() or self._handle_crash(code)
        return TrialResult(self.task, None, why) if why else None

    def _report_validations(self) -> None:
        """Tell the trial of validations that are new. Raises Pruned."""
        if not self.task.trial:
            return
        for entry in read_journal(self.task.folder / "metrics.jsonl"):
            if "validation_loss" in entry and entry["step"] not in self.reported_steps:
                self.reported_steps.add(entry["step"])
                self.task.trial.report(entry["step"], entry["validation_loss"])

    def _read_fault(self) -> BurnishError | None:
        """The fault that the process wrote down. Raises it if every training would end so."""
        if not self.outcome.exists():
            return None
        told = json.loads(self.outcome.read_text(encoding="utf-8"))
        if told["kind"] in _TRIAL_FAULTS:
            return _TRIAL_FAULTS[told["kind"]](told["what"], told["fix"])
        raise BurnishError(told["what"], told["fix"])

    def _handle_crash(self, code: int) -> BurnishError | None:
        """Begin again; or, after many deaths without getting further, the reason to give up."""
        steps = [entry["step"] for entry in read_journal(self.task.folder / "metrics.jsonl")]
        got_to = max(steps, default=0)
        self.crashes = self.crashes + 1 if got_to <= self.crashed_at_step else 1
        self.crashed_at_step = max(self.crashed_at_step, got_to)
        why = f"The process of {self.task.folder.name} ended ({describe_exit(code)})"
        self.process.stop()
        if self.crashes >= MAX_CRASHES:
            said = f"What it said: {self.folder / 'trainer.log'}"
            return TrainingStopped(f"{why} {self.crashes} times without getting further.", said)
        say(f"{why}; it goes on from its last checkpoint.")
        self._start()
        return None
