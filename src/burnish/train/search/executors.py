"""Execution of a search's trials: one after another in this process, or several in parallel.

The training code knows nothing of the study. Parallel trials are worker processes; their metrics
are read from their folders, and a trial that falls behind is stopped from here.
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

#: Seconds between two polls of the processes.
_POLL_SECONDS = 0.5
#: Errors that end one trial and not the search.
_TRIAL_FAULTS = {fault.__name__: fault for fault in (DoesNotFit, TrainingStopped)}


@dataclass(frozen=True, slots=True)
class TrialTask:
    """One training of a search; `trial` is None for the repetitions of the best settings."""

    recipe: Recipe
    folder: Path
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A training's best validation loss, or the error that ended it."""

    task: TrialTask
    loss: float | None
    fault: BurnishError | None = None


TrialRunner = Callable[[Iterator[TrialTask]], Iterator[TrialResult]]


@dataclass(frozen=True, slots=True)
class SerialTrials:
    """Trains in this process, one after another."""

    dataset: Dataset

    def __call__(self, tasks: Iterator[TrialTask]) -> Iterator[TrialResult]:
        """Run each task once the result of the one before it is consumed."""
        for task in tasks:
            on_validation = task.trial.report if task.trial else None
            try:
                report = train_in(task.folder, task.recipe, self.dataset, on_validation)
            except (Pruned, *_TRIAL_FAULTS.values()) as fault:
                yield TrialResult(task, None, fault)
            else:
                yield TrialResult(task, report.best_validation_loss)


@dataclass(frozen=True, slots=True)
class ParallelTrials:
    """Trains up to `workers` at once, each in a process; their logs are in folders of `folder`."""

    executor: Executor
    workers: int
    folder: Path

    def __call__(self, tasks: Iterator[TrialTask]) -> Iterator[TrialResult]:
        """Yield results in the order in which trials end. Raises errors that all trials share."""
        running: list[_TrialProcess] = []
        try:
            while True:
                while len(running) < self.workers and (task := next(tasks, None)):
                    # A search that was killed has trained this one already.
                    if report := Run(task.folder).read("report.json"):
                        yield TrialResult(task, report["best_validation_loss"])
                    else:
                        log_folder = self.folder / task.folder.name
                        running.append(_TrialProcess(task, self.executor, log_folder))
                if not running:
                    return
                for trial in list(running):
                    if result := trial.poll():
                        trial.process.stop()
                        running.remove(trial)
                        yield result
                time.sleep(_POLL_SECONDS)
        finally:
            for trial in running:
                trial.process.stop()


@dataclass
class _TrialProcess:
    """A process for one training, restarted if it dies. Two of one folder wait for each other."""

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
        """Return the result if the training has ended. Raises errors that all trials share."""
        code = self.process.poll()
        try:
            self._report_validations()
        except Pruned as pruned:
            return TrialResult(self.task, None, pruned)
        if code is None:
            return None
        if code == 0:
            report = Run(self.task.folder).read("report.json")
            return TrialResult(self.task, report["best_validation_loss"])
        error = self._read_fault() or self._handle_crash(code)
        return TrialResult(self.task, None, error) if error else None

    def _report_validations(self) -> None:
        """Report new validations to the trial. Raises Pruned."""
        if not self.task.trial:
            return
        for entry in read_journal(self.task.folder / "metrics.jsonl"):
            if "validation_loss" in entry and entry["step"] not in self.reported_steps:
                self.reported_steps.add(entry["step"])
                self.task.trial.report(entry["step"], entry["validation_loss"])

    def _read_fault(self) -> BurnishError | None:
        """Return the error that the process wrote down. Raises it if all trials share it."""
        if not self.outcome.exists():
            return None
        outcome = json.loads(self.outcome.read_text(encoding="utf-8"))
        if outcome["kind"] in _TRIAL_FAULTS:
            return _TRIAL_FAULTS[outcome["kind"]](outcome["what"], outcome["fix"])
        raise BurnishError(outcome["what"], outcome["fix"])

    def _handle_crash(self, code: int) -> BurnishError | None:
        """Restart; after many crashes without progress return the reason to give up."""
        steps = [entry["step"] for entry in read_journal(self.task.folder / "metrics.jsonl")]
        last_step = max(steps, default=0)
        self.crashes = self.crashes + 1 if last_step <= self.crashed_at_step else 1
        self.crashed_at_step = max(self.crashed_at_step, last_step)
        crash = f"The process of {self.task.folder.name} ended ({describe_exit(code)})"
        self.process.stop()
        if self.crashes >= MAX_CRASHES:
            fix = f"Read its log: {self.folder / 'trainer.log'}"
            return TrainingStopped(f"{crash} {self.crashes} times without progress.", fix)
        say(f"{crash}; it resumes from its last checkpoint.")
        self._start()
        return None
