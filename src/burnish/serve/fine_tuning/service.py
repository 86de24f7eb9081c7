"""Create fine-tuning jobs, and find them by their metadata."""

import random
import time
from collections.abc import Mapping
from secrets import token_hex

from sqlalchemy import Select, select

from burnish.models.local_models import list_models
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import RequestError
from burnish.serve.fine_tuning.protocol import CreateJob
from burnish.serve.graders.protocol import reject_code
from burnish.serve.graders.service import check_sources
from burnish.serve.inference.service import InferenceService
from burnish.serve.store.files import StoredFileNotFound
from burnish.serve.store.jobs import JobEvent
from burnish.serve.store.schema import Job
from burnish.serve.store.workspace import Workspace, run_name


async def check_reinforcement(inference: InferenceService, request: CreateJob) -> None:
    """Raise RequestError if the job's grader may not run here, or does not load."""
    if request.method and request.method.reinforcement:
        grader, param = request.method.reinforcement.grader, "method.reinforcement.grader"
        reject_code(grader, inference.settings.python_graders, param)
        await check_sources(inference, grader, param)


def create_job(workspace: Workspace, request: CreateJob) -> Job:
    """Check what can be checked at once, then write the job and its first events.

    Raises RequestError, QuotaExceeded. The rows of the files are checked later, by the worker.
    """
    base = workspace.aliases.get(request.model, request.model)
    trainable = {
        model.name: model.kind for model in list_models() if model.kind in ("causal", "vision")
    }
    if base not in trainable or not CURRENT_KEY.get().allows_model(request.model):
        raise RequestError(
            f"Model {request.model} is not available for fine-tuning or does not exist.",
            "model",
            "model_not_available",
        )
    if trainable[base] == "vision" and request.method_name != "supervised":
        raise RequestError(
            f"{request.model} is a vision-language model: use the method `supervised`.",
            "method",
            "unsupported_value",
        )
    for param in ("training_file", "validation_file"):
        _check_file(workspace, getattr(request, param), param)
    if request.validation_file == request.training_file:
        raise RequestError(
            "The validation file is the same as the training file.", "validation_file", "same_file"
        )
    job_id, now = f"ftjob-{token_hex(12)}", int(time.time())
    job = Job(
        id=job_id,
        created_at=now,
        status="validating_files",
        model=request.model,
        base=base,
        suffix=request.suffix,
        seed=random.randrange(2**31) if request.seed is None else request.seed,
        training_file=request.training_file,
        validation_file=request.validation_file,
        method=request.method_name,
        asked=request.requested,
        hyperparameters=request.requested_hyperparameters,
        labels=request.metadata,
        run=run_name(job_id, now),
    )
    files = f"training file: {request.training_file}"
    if request.validation_file:
        files += f" and validation file: {request.validation_file}"
    events = [
        JobEvent("created", f"Created fine-tuning job: {job_id}"),
        JobEvent("validating", f"Validating {files}"),
    ]
    return workspace.jobs.add(job, events)


def _check_file(workspace: Workspace, name: str | None, param: str) -> None:
    """Raise RequestError for a file that does not exist or is not for training."""
    if name is None:
        return
    try:
        file = workspace.files.find(name)
    except StoredFileNotFound as error:
        raise RequestError(f"{name} does not exist.", param, "file_not_found") from error
    if file.purpose != "fine-tune":
        raise RequestError(
            f"{name} has the purpose `{file.purpose}`; it must be `fine-tune`.",
            param,
            "invalid_file_purpose",
        )


def filter_by_metadata(workspace: Workspace, parameters: Mapping[str, str]) -> Select[Job]:
    """Select the jobs whose metadata has each `metadata[key]=value` of the query's parameters;
    with `metadata=null`, the jobs without metadata."""
    if parameters.get("metadata") == "null":
        return select(Job).where(Job.labels.is_(None))
    wanted = {
        name[9:-1]: value
        for name, value in parameters.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if not wanted:
        return select(Job)
    with workspace.store.reading() as session:
        labels = session.execute(select(Job.id, Job.labels).where(Job.labels.is_not(None))).all()
    matching = [job for job, metadata in labels if wanted.items() <= (metadata or {}).items()]
    return select(Job).where(Job.id.in_(matching))
