"""What the fine-tuning API works with: the store, the files, the jobs, the models made by them."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from sqlalchemy import select

from burnish.core.settings import workspace
from burnish.serve.store.deployments import Deployments
from burnish.serve.store.files import FileStore
from burnish.serve.store.jobs import Jobs
from burnish.serve.store.objects import StoredObjects
from burnish.serve.store.schema import Database, DeletedModel, File, Job, JobCheckpoint, sqlite_url


@dataclass(frozen=True, slots=True)
class FineTunedModel:
    """A model that a job has made: its name, the base's, the artifact's folder, since when, and
    the organisation whose it is."""

    name: str
    base: str
    folder: Path
    created: int
    organization: str


@dataclass(frozen=True, slots=True)
class Workspace:
    """The state of the fine-tuning API. `aliases` are more names of base models."""

    store: Database
    home: Path
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> FileStore:
        """Uploaded and result files."""
        return FileStore(self.store, self.home / "files")

    @property
    def jobs(self) -> Jobs:
        """Fine-tuning jobs."""
        return Jobs(self.store)

    @property
    def objects(self) -> StoredObjects:
        """All else that clients have made."""
        return StoredObjects(self.store)

    @property
    def deployments(self) -> Deployments:
        """Names that clients have given to models."""
        return Deployments(self.objects)

    def run_folder(self, job: Job) -> Path:
        """The one run of a job: by its name it stands among the others in the order of time."""
        return self.home / "runs" / job.run

    def job_folder(self, job: Job) -> Path:
        """Where the trainer's recipe, lock and log are."""
        folder = self.home / "jobs" / job.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add_result_file(self, job: Job, table: str) -> File:
        """Keep a job's table of steps as a file; the same file however often."""
        own = f"file-{sha256(f'{job.id}/results'.encode()).hexdigest()[:24]}"
        source = io.BytesIO(table.encode())
        return self.files.add(source, "step_metrics.csv", "fine-tune-results", own)

    def list_fine_tuned(self) -> Sequence[FineTunedModel]:
        """All models that jobs have made, those of steps on the way too, oldest first."""
        with self.store.reading() as session:
            deleted = set(session.scalars(select(DeletedModel.name)))
            done = session.scalars(
                select(Job).where(Job.fine_tuned_model.is_not(None)).order_by(Job.seq)
            ).all()
            steps = session.execute(
                select(JobCheckpoint, Job)
                .join(Job, Job.id == JobCheckpoint.job)
                .where(JobCheckpoint.name != Job.fine_tuned_model)
                .order_by(JobCheckpoint.seq)
            ).all()
        models = [
            FineTunedModel(
                str(job.fine_tuned_model),
                job.base,
                self._artifact_folder(job),
                job.created_at,
                job.organization,
            )
            for job in done
        ]
        models += [
            FineTunedModel(
                step.name,
                job.base,
                self.run_folder(job) / step.folder,
                step.created_at,
                job.organization,
            )
            for step, job in steps
        ]
        return [model for model in models if model.name not in deleted]

    def find_fine_tuned(self, name: str) -> FineTunedModel | None:
        """The model of that name, if a job has made it."""
        return next((model for model in self.list_fine_tuned() if model.name == name), None)

    def delete_model(self, name: str) -> None:
        """Delete a model from all lists; its run stays. Raises Deployed while it is deployed."""
        self.deployments.delete_model(name)

    def _artifact_folder(self, job: Job) -> Path:
        return self.run_folder(job) / "artifact"


def open_workspace(url: str = "", aliases: Mapping[str, str] | None = None) -> Workspace:
    """The desk of this workspace, its store at `url`. Raises StoreUnavailable."""
    return Workspace(Database(url or sqlite_url(workspace())), workspace(), aliases or {})


def run_name(job_id: str, created_at: int) -> str:
    """The name of a job's run folder, the same whoever makes it."""
    begun = time.strftime("%Y%m%d-%H%M%S", time.localtime(created_at))
    return f"{begun}-job-{job_id[-8:]}"
