"""The routes /files and /fine_tuning/jobs."""

import random
import time
from collections.abc import Mapping
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Select, select

from burnish.models.local_models import list_models
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import RequestError
from burnish.serve.fine_tuning.protocol import CreateJob, checkpoint_body, event_body, job_body
from burnish.serve.graders.protocol import reject_code
from burnish.serve.graders.router import check_sources
from burnish.serve.inference.service import InferenceService
from burnish.serve.protocol import PageLimit
from burnish.serve.store.files import StoredFileNotFound
from burnish.serve.store.jobs import TRANSITIONS, JobEvent
from burnish.serve.store.pagination import page_body
from burnish.serve.store.schema import Job, JobCheckpoint, JobEventRow
from burnish.serve.store.workspace import Workspace, run_name


def job_routes(service: InferenceService, workspace: Workspace) -> APIRouter:
    """Make, follow and steer fine-tuning jobs."""
    router, jobs = APIRouter(prefix="/fine_tuning/jobs"), workspace.jobs

    @router.post("", summary="Begin a fine-tuning job")
    async def create_job(asked: CreateJob) -> dict[str, Any]:
        if asked.method and asked.method.reinforcement:
            grader, param = asked.method.reinforcement.grader, "method.reinforcement.grader"
            reject_code(grader, service.settings.python_graders, param)
            await check_sources(service, grader, param)
        return job_body(await run_in_threadpool(_create_job, workspace, asked))

    @router.get("", summary="The jobs, newest first")
    def list_jobs(
        request: Request, after: str | None = None, limit: PageLimit = 20
    ) -> dict[str, Any]:
        query = _filter_by_metadata(workspace, request.query_params)
        return page_body(*jobs.page(query, after, limit), job_body)

    @router.get("/{name}", summary="One job")
    def get_job(name: str) -> dict[str, Any]:
        return job_body(jobs.find(name))

    # The documents of Azure ask for both lists by POST.
    @router.post("/{name}/events", include_in_schema=False)
    @router.get("/{name}/events", summary="What happened to a job, newest first")
    def list_events(name: str, after: str | None = None, limit: PageLimit = 20) -> dict[str, Any]:
        return page_body(*jobs.page_children(JobEventRow, name, after, limit), event_body)

    @router.post("/{name}/checkpoints", include_in_schema=False)
    @router.get("/{name}/checkpoints", summary="Models of steps on the way, newest first")
    def list_checkpoints(
        name: str, after: str | None = None, limit: PageLimit = 10
    ) -> dict[str, Any]:
        return page_body(*jobs.page_children(JobCheckpoint, name, after, limit), checkpoint_body)

    def add_transition_route(word: str) -> None:
        @router.post(f"/{{name}}/{word}", summary=f"{word.capitalize()} a job", name=word)
        def steer(name: str) -> dict[str, Any]:
            return job_body(jobs.transition(name, word))

    for word in TRANSITIONS:
        add_transition_route(word)
    return router


def _create_job(workspace: Workspace, request: CreateJob) -> Job:
    """Check what can be checked at once; then write the job and its first events."""
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
            f"Model {request.model} sees, and is trained by the method `supervised` only.",
            "method",
            "unsupported_value",
        )
    for param in ("training_file", "validation_file"):
        _check_file(workspace, getattr(request, param), param)
    if request.validation_file == request.training_file:
        raise RequestError(
            "The validation file is the training file.", "validation_file", "same_file"
        )
    own, now = f"ftjob-{token_hex(12)}", int(time.time())
    job = Job(
        id=own,
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
        run=run_name(own, now),
    )
    files = f"training file: {request.training_file}"
    if request.validation_file:
        files += f" and validation file: {request.validation_file}"
    first = [
        JobEvent("created", f"Created fine-tuning job: {own}"),
        JobEvent("validating", f"Validating {files}"),
    ]
    return workspace.jobs.add(job, first)


def _check_file(workspace: Workspace, name: str | None, param: str) -> None:
    """Raises Refused for a file that isn't here or isn't for training."""
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


def _filter_by_metadata(workspace: Workspace, request: Mapping[str, str]) -> Select[Job]:
    """Jobs whose metadata holds each `metadata[k]=v` of the query; with `null`, those without."""
    if request.get("metadata") == "null":
        return select(Job).where(Job.labels.is_(None))
    wanted = {
        name[9:-1]: value
        for name, value in request.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if not wanted:
        return select(Job)
    with workspace.store.reading() as session:
        labels = session.execute(select(Job.id, Job.labels).where(Job.labels.is_not(None))).all()
    found = [own for own, given in labels if wanted.items() <= (given or {}).items()]
    return select(Job).where(Job.id.in_(found))
