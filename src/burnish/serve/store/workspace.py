"""The state of the server: files, jobs, objects, deployments, fine-tuned models."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from sqlalchemy import select

from burnish.core.settings import workspace
from burnish.serve.protocol import storable_text
from burnish.serve.store.deployments import Deployments
from burnish.serve.store.files import FileStore
from burnish.serve.store.jobs import Jobs
from burnish.serve.store.objects import StoredObjects
from burnish.serve.store.schema import Database, DeletedModel, File, Job, JobCheckpoint, sqlite_url

#: Checkpoints with their jobs; the checkpoint that became the model is the job's own.
_CHECKPOINT_MODELS = (
    select(JobCheckpoint, Job)
    .join(Job, Job.id == JobCheckpoint.job)
    .where(JobCheckpoint.name != Job.fine_tuned_model)
)


@dataclass(frozen=True, slots=True)
class FineTunedModel:
    """A model that a job has trained. `folder` is the artifact, `created` in Unix seconds."""

    name: str
    base: str
    folder: Path
    created: int
    organization: str


@dataclass(frozen=True, slots=True)
class Workspace:
    """The state of the server, in `store` and in folders of `home`.

    `aliases` are more names of base models.
    """

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
        """Objects that clients have created besides files and jobs."""
        return StoredObjects(self.store)

    @property
    def deployments(self) -> Deployments:
        """Names that clients have given to models."""
        return Deployments(self.objects)

    def run_folder(self, job: Job) -> Path:
        """Return the run folder of a job."""
        return self.home / "runs" / job.run

    def job_folder(self, job: Job) -> Path:
        """Return the folder of the trainer's recipe, lock and log, and create it."""
        folder = self.home / "jobs" / job.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add_result_file(self, job: Job, table: str) -> File:
        """Keep a job's table of step metrics (CSV) as a file. Repeating it makes no second file."""
        file_id = f"file-{sha256(f'{job.id}/results'.encode()).hexdigest()[:24]}"
        source = io.BytesIO(table.encode())
        return self.files.add(source, "step_metrics.csv", "fine-tune-results", file_id)

    def list_fine_tuned(self) -> Sequence[FineTunedModel]:
        """List all fine-tuned models, oldest first, then the models of their checkpoints."""
        with self.store.reading() as session:
            deleted = set(session.scalars(select(DeletedModel.name)))
            jobs = session.scalars(
                select(Job).where(Job.fine_tuned_model.is_not(None)).order_by(Job.seq)
            ).all()
            checkpoints = session.execute(_CHECKPOINT_MODELS.order_by(JobCheckpoint.seq)).all()
        models = [self._final_model(job) for job in jobs]
        models += [self._checkpoint_model(checkpoint, job) for checkpoint, job in checkpoints]
        return [model for model in models if model.name not in deleted]

    def find_fine_tuned(self, name: str) -> FineTunedModel | None:
        """Find a fine-tuned model, or the model of a checkpoint, by its name.

        Every query is by an indexed name: the time does not grow with the number of models.
        """
        try:
            storable_text(name)
        except ValueError:  # PostgreSQL would refuse to look it up
            return None
        with self.store.reading() as session:
            if session.get(DeletedModel, name):
                return None
            job = session.scalar(select(Job).where(Job.fine_tuned_model == name))
            if job:
                return self._final_model(job)
            row = session.execute(_CHECKPOINT_MODELS.where(JobCheckpoint.name == name)).first()
        return self._checkpoint_model(*row) if row else None

    def delete_model(self, name: str) -> None:
        """Delete a model from all lists; its run stays. Raises InUse while it is deployed."""
        self.deployments.delete_model(name)

    def _final_model(self, job: Job) -> FineTunedModel:
        return FineTunedModel(
            name=str(job.fine_tuned_model),
            base=job.base,
            folder=self.run_folder(job) / "artifact",
            created=job.created_at,
            organization=job.organization,
        )

    def _checkpoint_model(self, checkpoint: JobCheckpoint, job: Job) -> FineTunedModel:
        return FineTunedModel(
            name=checkpoint.name,
            base=job.base,
            folder=self.run_folder(job) / checkpoint.folder,
            created=checkpoint.created_at,
            organization=job.organization,
        )


def open_workspace(url: str = "", aliases: Mapping[str, str] | None = None) -> Workspace:
    """Open this workspace, with its store at `url`. Raises StoreUnavailable."""
    return Workspace(Database(url or sqlite_url(workspace())), workspace(), aliases or {})


def run_name(job_id: str, created_at: int) -> str:
    """Return the name of a job's run folder, which sorts by time among the others."""
    started = time.strftime("%Y%m%d-%H%M%S", time.localtime(created_at))
    return f"{started}-job-{job_id[-8:]}"
