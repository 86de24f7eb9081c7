"""Takes jobs on and sees them through: checks files, starts trainers, tells what happens.

Two threads, so that a new job's files are checked while another one trains. All that counts is in
the store and in the run's folder; a worker that is killed leaves its lease to run out, and whoever
takes the job over goes on from the run's last checkpoint.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from burnish.core.errors import BurnishError, StorageFailed
from burnish.core.executors.executor import Executor, LocalExecutor
from burnish.core.executors.process import MAX_CRASHES, Process, ProcessTask, describe_exit
from burnish.core.progress import say
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import Run
from burnish.serve.auth.tenant import as_organization
from burnish.serve.background.periodic import PeriodicThread, PeriodicThreads
from burnish.serve.fine_tuning import progress as harvest
from burnish.serve.fine_tuning.protocol import model_name
from burnish.serve.fine_tuning.recipe import BadFile, JobSpec, recipe_for_job
from burnish.serve.graders.protocol import CODE_REFUSED, contains_code
from burnish.serve.store.jobs import (
    JobEvent,
    LeaseLost,
    fail_job,
    record_checkpoints,
    record_events,
)
from burnish.serve.store.schema import Job, JobEventRow
from burnish.serve.store.workspace import Workspace

_NAME = "Fine-tuning jobs"
CHECKER, TRAINER = "checker", "trainer"
#: Which states of a job each thread takes on.
STAGES = {CHECKER: ("validating_files",), TRAINER: ("queued", "running")}


@dataclass
class JobWorker:
    """Works on the jobs of `desk` until stopped; the trainers are started by `executor`.

    Seconds: `lease` of a job, `tick` of a look. A job whose grader is code fails unless
    `python_graders`, whichever server took it on.
    """

    workspace: Workspace
    executor: Executor = field(default_factory=LocalExecutor)
    lease: float = 15.0
    tick: float = 0.25
    python_graders: bool = False
    name: str = field(default_factory=lambda: f"worker-{token_hex(8)}")

    def __post_init__(self) -> None:
        self._loops = PeriodicThreads()

    def start(self) -> None:
        """Begin, in threads that show progress to whoever listens here."""
        self._loops.start(
            PeriodicThread(_NAME, lambda: self._work_on_next(CHECKER, self._check), self.tick),
            PeriodicThread(_NAME, lambda: self._work_on_next(TRAINER, self._train), self.tick),
            PeriodicThread(_NAME, self._renew_leases, self.lease / 4),
        )

    def stop(self) -> None:
        """Stop the trainer and let go of the jobs: they go on when a worker is there again."""
        self._loops.stop()

    def _renew_leases(self) -> None:
        self.workspace.jobs.renew([self._holder(stage) for stage in STAGES], self.lease)

    def _holder(self, stage: str) -> str:
        """Each thread holds jobs by a name of its own: one must not let go what the other holds."""
        return f"{self.name}-{stage}"

    def _work_on_next(self, stage: str, work: Callable[[Job], None]) -> None:
        """Work on the next job of this stage, if there is one."""
        holder = self._holder(stage)
        job = self.workspace.jobs.claim(STAGES[stage], holder, self.lease)
        if job:
            try:
                with as_organization(job.organization):
                    if self.python_graders or not contains_code(job.asked.get("grader")):
                        work(job)
                    else:
                        self._fail(job, "python_graders_off", CODE_REFUSED)
            except LeaseLost as lost:
                say(lost.what)
            finally:
                self.workspace.jobs.release(job.id, holder)

    def _check(self, job: Job) -> None:
        """Check a job's files and settle its numbers."""
        try:
            recipe, numbers = recipe_for_job(self._job_spec(job))
        except BadFile as error:
            message = f"Invalid {error.param.replace('_', ' ')}. {error}"
            self._fail(job, f"invalid_{error.param}", message, error.param)
            return
        except BurnishError as error:  # the file or the model has gone since the job was made
            self._fail(job, "not_found", str(error))
            return
        except (RuntimeError, ValueError, LookupError, TypeError, MemoryError) as fault:
            message = f"The files could not be checked: {type(fault).__name__}: {fault}"
            self._fail(job, "server_error", message)
            return
        told = JobEvent("validated", "Files validated, moving job to queued state")
        with self._locked(job) as (session, mine):
            if mine.status != "validating_files":
                return
            mine.status, mine.hyperparameters = "queued", numbers
            mine.recipe = recipe.model_dump(mode="json")
            mine.worker = mine.lease_until = None
            record_events(session, mine, [told])

    def _locked(self, job: Job) -> AbstractContextManager[tuple[Session, Job]]:
        return self.workspace.jobs.locked(job.id, str(job.worker))

    def _fail(self, job: Job, code: str, message: str, param: str | None = None) -> None:
        with self._locked(job) as (session, mine):
            if any(mine.status in statuses for statuses in STAGES.values()):
                fail_job(session, mine, code, message, param)

    def _pause(self, job: Job, why: str) -> None:
        """The disk gave out, which is no fault of the job's: it can be resumed."""
        with self._locked(job) as (session, mine):
            if mine.status == "running":
                mine.status, mine.estimated_finish = "paused", None
                said = f"The job has been paused; resume it later. {why}"
                record_events(session, mine, [JobEvent(f"storage-{job.lives}", said, "error")])

    def _job_spec(self, job: Job) -> JobSpec:
        files = self.workspace.files
        train = files.path(files.find(job.training_file))
        validation = files.path(files.find(job.validation_file)) if job.validation_file else None
        names = {str(train): job.training_file}
        if validation and job.validation_file:
            names[str(validation)] = job.validation_file
        return JobSpec(job.base, train, validation, job.asked, job.seed, names, job.method)

    def _train(self, job: Job) -> None:
        """See one life of the job's trainer through to its end."""
        run = Run(self.workspace.run_folder(job))
        folder = self.workspace.job_folder(job)
        outcome = folder / f"outcome-{job.lives}.json"
        with self._locked(job) as (session, mine):
            if mine.status not in ("queued", "running"):
                return
            mine.status = "running"
            record_events(session, mine, [JobEvent("started", "Fine-tuning job started")])
            metrics = (JobEventRow.job == job.id, JobEventRow.type == "metrics")
            told = session.scalar(select(func.count()).where(*metrics)) or 0
        make_recipe(job.recipe).save(folder / "recipe.yaml")
        files = [str(file) for file in (folder / "recipe.yaml", run.path, outcome)]
        trainer = self.executor.start(
            ProcessTask("burnish.serve.fine_tuning.trainer", files, folder / "trainer.log")
        )
        try:
            code = self._follow(job, run, trainer, told)
        finally:
            trainer.stop()
        if code == 0:
            self._finish(job, run)
        elif code is not None:
            self._handle_early_exit(job, run, outcome, code)

    def _follow(self, job: Job, run: Run, trainer: Process, recorded: int) -> int | None:
        """Tell what the trainer does until it ends: its exit code, or None if it is to stop."""
        seen: list[int] = []
        while True:
            code = trainer.poll()
            if self._loops.stopped.is_set() or not self._is_wanted(job):
                return None
            sizes = harvest.journal_sizes(run)
            if sizes != seen or code is not None:
                seen = sizes
                recorded += self._record_progress(job, run, recorded, ended=code == 0)
            if code is not None:
                return code
            self._loops.stopped.wait(self.tick)

    def _record_progress(self, job: Job, run: Run, recorded: int, ended: bool) -> int:
        """Write an event for each step that is new; returns how many there were."""
        planned = harvest.read_planned_steps(run)
        if planned is None:
            return 0
        news = harvest.new_events(run, planned, recorded, ended)
        with self._locked(job) as (session, mine):
            if mine.status == "running":
                mine.estimated_finish = harvest.estimate_end(run, planned)
                record_events(session, mine, news)
        return len(news)

    def _is_wanted(self, job: Job) -> bool:
        """Whether the job is still to be trained, by this worker."""
        now = self.workspace.jobs.find(job.id)
        return now.status == "running" and now.worker == job.worker

    def _finish(self, job: Job, run: Run) -> None:
        """The trained model gets its name, and the job its end, in one transaction."""
        name = model_name(job)
        table = self.workspace.add_result_file(job, harvest.step_metrics_csv(run))
        ways = harvest.list_checkpoints(run, name)
        told = [JobEvent(f"checkpoint-{way['step']}", f"Checkpoint created at step {way['step']}")
                for way in ways]  # fmt: skip
        told += [
            JobEvent("model", f"New fine-tuned model created: {name}"),
            JobEvent("succeeded", "The job has successfully completed"),
        ]
        with self._locked(job) as (session, mine):
            if mine.status != "running":
                return
            mine.status, mine.fine_tuned_model = "succeeded", name
            mine.finished_at, mine.estimated_finish = int(time.time()), None
            mine.trained_tokens = harvest.count_trained_tokens(run)
            mine.result_files = [table.id]
            mine.worker = mine.lease_until = None
            record_checkpoints(session, mine, ways)
            record_events(session, mine, told)
        say(f"Fine-tuned: {name}")

    def _handle_early_exit(self, job: Job, run: Run, outcome: Path, code: int) -> None:
        """A trainer ended early: with a reason, or without one, which may be tried again."""
        if outcome.exists():
            error = json.loads(outcome.read_text(encoding="utf-8"))
            what = "\n".join(part for part in (error["what"], error["fix"]) if part)
            if error["kind"] == StorageFailed.__name__:
                self._pause(job, what)
                return
            self._fail(job, "training_failed", what)
            return
        step = max(harvest.read_steps(run), default=0)
        with self._locked(job) as (session, mine):
            mine.deaths = mine.deaths + 1 if step <= mine.died_at_step else 1
            mine.died_at_step = max(step, mine.died_at_step)
            deaths = mine.deaths
            said = "The training process ended unexpectedly; it goes on from its last checkpoint"
            if deaths < MAX_CRASHES and mine.status == "running":
                record_events(session, mine, [JobEvent(f"death-{job.lives}", said, "warn")])
        if deaths >= MAX_CRASHES:
            log = self.workspace.job_folder(job) / "trainer.log"
            message = (
                f"The training process ended {deaths} times without getting further "
                f"({describe_exit(code)}). What it said: {log}"
            )
            self._fail(job, "training_process_died", message)
