"""Worker that runs jobs: checks their files, starts their trainers, records their progress.

Two threads, so that a new job's files are checked while another job trains. All state is in the
store and in the run folder; when a worker is killed its lease runs out, and the worker that takes
the job over resumes from the run's last checkpoint.
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

from burnish.core.disk_errors import describe_disk_error
from burnish.core.errors import BurnishError, StorageFailed
from burnish.core.executors.executor import Executor, LocalExecutor
from burnish.core.executors.process import MAX_CRASHES, Process, ProcessTask, describe_exit
from burnish.core.progress import say
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import Run
from burnish.serve.auth.tenant import as_organization
from burnish.serve.background.periodic import PeriodicThread, PeriodicThreads
from burnish.serve.background.tasks import MAX_FAILURES, STORE_ERRORS
from burnish.serve.fine_tuning import progress
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
from burnish.serve.store.turns import Turns
from burnish.serve.store.workspace import Workspace

_NAME = "Fine-tuning jobs"
CHECKER, TRAINER = "checker", "trainer"
#: The states of a job that each thread works on.
STAGES = {CHECKER: ("validating_files",), TRAINER: ("queued", "running")}
#: Seconds until a job that met an unexpected error is tried again.
_RETRY_SECONDS = 5.0


@dataclass
class JobWorker:
    """Runs the jobs of a workspace until stopped; `executor` starts the trainers.

    Seconds: `lease` of a job, `tick` between polls. Without `python_graders` a job whose grader is
    code fails, whichever server accepted it.
    """

    workspace: Workspace
    executor: Executor = field(default_factory=LocalExecutor)
    lease: float = 15.0
    tick: float = 0.25
    python_graders: bool = False
    name: str = field(default_factory=lambda: f"worker-{token_hex(8)}")

    def __post_init__(self) -> None:
        self._threads = PeriodicThreads()
        self._turns = {stage: Turns() for stage in STAGES}
        #: The unexpected errors of each job, and when a job that met one is tried again.
        self._failures: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}

    def failing(self) -> list[str]:
        """Return the names of the threads that keep failing."""
        return self._threads.failing()

    def start(self) -> None:
        """Start the threads; they report progress where the caller does."""
        self._threads.start(
            PeriodicThread(_NAME, lambda: self._work_on_next(CHECKER, self._check), self.tick),
            PeriodicThread(_NAME, lambda: self._work_on_next(TRAINER, self._train), self.tick),
            PeriodicThread(_NAME, self._renew_leases, self.lease / 4),
        )

    def stop(self) -> None:
        """Stop the trainer and release the jobs; they resume when a worker runs again."""
        self._threads.stop()

    def _renew_leases(self) -> None:
        self.workspace.jobs.renew([self._holder(stage) for stage in STAGES], self.lease)

    def _holder(self, stage: str) -> str:
        """Return the lease holder's name of a thread, which must not release the other's jobs."""
        return f"{self.name}-{stage}"

    def _work_on_next(self, stage: str, work: Callable[[Job], None]) -> None:
        """Work on the next job of a stage, if there is one."""
        holder = self._holder(stage)
        deferred = [job for job, at in list(self._retry_at.items()) if at > time.monotonic()]
        job = self.workspace.jobs.claim(
            STAGES[stage], holder, self.lease, self._turns[stage], deferred
        )
        if job:
            try:
                with as_organization(job.organization):
                    if self.python_graders or not contains_code(job.asked.get("grader")):
                        work(job)
                    else:
                        self._fail(job, "python_graders_off", CODE_REFUSED)
            except LeaseLost as lost:
                say(lost.what)
            except STORE_ERRORS:
                raise
            except BaseException as fault:  # noqa: BLE001 whatever it is, it is this job's
                self._handle_failure(job, fault)
            finally:
                self.workspace.jobs.release(job.id, holder)

    def _handle_failure(self, job: Job, fault: BaseException) -> None:
        """Try a job again later, while others are worked on; fail it after its last try.

        What the executor or a disk cannot do for now is not the job's fault.
        """
        say(f"{job.id}: {type(fault).__name__}: {fault}")
        self._retry_at[job.id] = time.monotonic() + _RETRY_SECONDS
        if isinstance(fault, BurnishError) or describe_disk_error(fault) is not None:
            return
        self._failures[job.id] = self._failures.get(job.id, 0) + 1
        if self._failures[job.id] >= MAX_FAILURES:
            message = f"An unexpected error ({type(fault).__name__}) ended each of its tries."
            self._fail(job, "server_error", message)

    def _check(self, job: Job) -> None:
        """Check a job's files and resolve its hyperparameters."""
        try:
            recipe, numbers = recipe_for_job(self._job_spec(job))
        except BadFile as error:
            message = f"Invalid {error.param.replace('_', ' ')}. {error}"
            self._fail(job, f"invalid_{error.param}", message, error.param)
            return
        except BurnishError as error:  # the file or the model was deleted meanwhile
            self._fail(job, "not_found", str(error))
            return
        except (RuntimeError, ValueError, LookupError, TypeError, MemoryError) as fault:
            message = f"The files could not be checked: {type(fault).__name__}: {fault}"
            self._fail(job, "server_error", message)
            return
        validated = JobEvent("validated", "Files validated, moving job to queued state")
        with self._locked(job) as (session, row):
            if row.status != "validating_files":
                return
            row.status, row.hyperparameters = "queued", numbers
            row.recipe = recipe.model_dump(mode="json")
            row.worker = row.lease_until = None
            record_events(session, row, [validated])

    def _locked(self, job: Job) -> AbstractContextManager[tuple[Session, Job]]:
        return self.workspace.jobs.locked(job.id, str(job.worker))

    def _fail(self, job: Job, code: str, message: str, param: str | None = None) -> None:
        with self._locked(job) as (session, row):
            if any(row.status in statuses for statuses in STAGES.values()):
                fail_job(session, row, code, message, param)

    def _pause(self, job: Job, reason: str) -> None:
        """Pause a job whose disk failed, which is not the job's fault: it can be resumed."""
        with self._locked(job) as (session, row):
            if row.status == "running":
                row.status, row.estimated_finish = "paused", None
                message = f"The job has been paused; resume it later. {reason}"
                record_events(session, row, [JobEvent(f"storage-{job.lives}", message, "error")])

    def _job_spec(self, job: Job) -> JobSpec:
        files = self.workspace.files
        train = files.path(files.find(job.training_file))
        validation = files.path(files.find(job.validation_file)) if job.validation_file else None
        file_ids = {str(train): job.training_file}
        if validation and job.validation_file:
            file_ids[str(validation)] = job.validation_file
        return JobSpec(job.base, train, validation, job.asked, job.seed, file_ids, job.method)

    def _train(self, job: Job) -> None:
        """Run the job's trainer once, until it exits."""
        run = Run(self.workspace.run_folder(job))
        folder = self.workspace.job_folder(job)
        outcome = folder / f"outcome-{job.lives}.json"
        with self._locked(job) as (session, row):
            if row.status not in ("queued", "running"):
                return
            row.status = "running"
            record_events(session, row, [JobEvent("started", "Fine-tuning job started")])
            is_step = (JobEventRow.job == job.id, JobEventRow.type == "metrics")
            recorded = session.scalar(select(func.count()).where(*is_step)) or 0
        make_recipe(job.recipe, noted=False).save(folder / "recipe.yaml")
        files = [str(file) for file in (folder / "recipe.yaml", run.path, outcome)]
        trainer = self.executor.start(
            ProcessTask("burnish.serve.fine_tuning.trainer", files, folder / "trainer.log")
        )
        try:
            code = self._follow(job, run, trainer, recorded)
        finally:
            trainer.stop()
        if code == 0:
            self._finish(job, run)
        elif code is not None:
            self._handle_early_exit(job, run, outcome, code)

    def _follow(self, job: Job, run: Run, trainer: Process, recorded: int) -> int | None:
        """Record the trainer's progress. Returns its exit code, or None if it is to be stopped."""
        last_sizes: list[int] = []
        while True:
            code = trainer.poll()
            if self._threads.stopped.is_set() or not self._is_wanted(job):
                return None
            sizes = progress.journal_sizes(run)
            if sizes != last_sizes or code is not None:
                last_sizes = sizes
                recorded += self._record_progress(job, run, recorded, ended=code == 0)
            if code is not None:
                return code
            self._threads.stopped.wait(self.tick)

    def _record_progress(self, job: Job, run: Run, recorded: int, ended: bool) -> int:
        """Record an event for each new step. Returns how many there were."""
        planned = progress.read_planned_steps(run)
        if planned is None:
            return 0
        events = progress.new_events(run, planned, recorded, ended)
        with self._locked(job) as (session, row):
            if row.status == "running":
                row.estimated_finish = progress.estimate_end(run, planned)
                record_events(session, row, events)
        return len(events)

    def _is_wanted(self, job: Job) -> bool:
        """Return whether this worker is still to train the job."""
        current = self.workspace.jobs.find(job.id)
        return current.status == "running" and current.worker == job.worker

    def _finish(self, job: Job, run: Run) -> None:
        """Name the model and end the job in one transaction."""
        name = model_name(job)
        table = self.workspace.add_result_file(job, progress.step_metrics_csv(run))
        checkpoints = progress.list_checkpoints(run, name)
        steps = [checkpoint["step"] for checkpoint in checkpoints]
        events = [
            *(
                JobEvent(f"checkpoint-{step}", f"Checkpoint created at step {step}")
                for step in steps
            ),
            JobEvent("model", f"New fine-tuned model created: {name}"),
            JobEvent("succeeded", "The job has successfully completed"),
        ]
        with self._locked(job) as (session, row):
            if row.status != "running":
                return
            row.status, row.fine_tuned_model = "succeeded", name
            row.finished_at, row.estimated_finish = int(time.time()), None
            row.trained_tokens = progress.count_trained_tokens(run)
            row.result_files = [table.id]
            row.worker = row.lease_until = None
            record_checkpoints(session, row, checkpoints)
            record_events(session, row, events)
        say(f"Fine-tuned: {name}")

    def _handle_early_exit(self, job: Job, run: Run, outcome: Path, code: int) -> None:
        """Fail the job of a trainer that gave a reason; retry after a crash without one."""
        if outcome.exists():
            error = json.loads(outcome.read_text(encoding="utf-8"))
            message = "\n".join(part for part in (error["what"], error["fix"]) if part)
            if error["kind"] == StorageFailed.__name__:
                self._pause(job, message)
                return
            self._fail(job, "training_failed", message)
            return
        step = max(progress.read_steps(run), default=0)
        with self._locked(job) as (session, row):
            row.deaths = row.deaths + 1 if step <= row.died_at_step else 1
            row.died_at_step = max(step, row.died_at_step)
            crashes = row.deaths
            message = "The training process ended unexpectedly; it resumes from its last checkpoint"
            if crashes < MAX_CRASHES and row.status == "running":
                record_events(session, row, [JobEvent(f"death-{job.lives}", message, "warn")])
        if crashes >= MAX_CRASHES:
            log = self.workspace.job_folder(job) / "trainer.log"
            message = (
                f"The training process ended {crashes} times without progress "
                f"({describe_exit(code)}). Its output: {log}"
            )
            self._fail(job, "training_process_died", message)
