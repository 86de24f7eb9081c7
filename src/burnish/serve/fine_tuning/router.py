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
from burnish.serve.auth.keys import CALLER
from burnish.serve.errors import Refused
from burnish.serve.fine_tuning.protocol import CreateJob, checkpoint_body, event_body, job_body
from burnish.serve.graders.protocol import refuse_code
from burnish.serve.graders.router import try_sources
from burnish.serve.inference.service import House
from burnish.serve.protocol import Limit
from burnish.serve.store.files import NoSuchFile
from burnish.serve.store.jobs import CHANGES, Happening
from burnish.serve.store.pagination import page_body
from burnish.serve.store.schema import Checkpoint, Event, Job
from burnish.serve.store.workspace import Desk, run_name


def job_routes(house: House, desk: Desk) -> APIRouter:
    """Make, follow and steer fine-tuning jobs."""
    router, jobs = APIRouter(prefix="/fine_tuning/jobs"), desk.jobs

    @router.post("", summary="Begin a fine-tuning job")
    async def create(asked: CreateJob) -> dict[str, Any]:
        if asked.method and asked.method.reinforcement:
            grader, param = asked.method.reinforcement.grader, "method.reinforcement.grader"
            refuse_code(grader, house.settings.python_graders, param)
            await try_sources(house, grader, param)
        return job_body(await run_in_threadpool(_create, desk, asked))

    @router.get("", summary="The jobs, newest first")
    def some(request: Request, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        query = _labelled(desk, request.query_params)
        return page_body(*jobs.page(query, after, limit), job_body)

    @router.get("/{name}", summary="One job")
    def one(name: str) -> dict[str, Any]:
        return job_body(jobs.find(name))

    # The documents of Azure ask for both lists by POST.
    @router.post("/{name}/events", include_in_schema=False)
    @router.get("/{name}/events", summary="What happened to a job, newest first")
    def events(name: str, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        return page_body(*jobs.parts(Event, name, after, limit), event_body)

    @router.post("/{name}/checkpoints", include_in_schema=False)
    @router.get("/{name}/checkpoints", summary="Models of steps on the way, newest first")
    def checkpoints(name: str, after: str | None = None, limit: Limit = 10) -> dict[str, Any]:
        return page_body(*jobs.parts(Checkpoint, name, after, limit), checkpoint_body)

    def steered(word: str) -> None:
        @router.post(f"/{{name}}/{word}", summary=f"{word.capitalize()} a job", name=word)
        def steer(name: str) -> dict[str, Any]:
            return job_body(jobs.change(name, word))

    for word in CHANGES:
        steered(word)
    return router


def _create(desk: Desk, asked: CreateJob) -> Job:
    """Check what can be checked at once; then write the job and its first events."""
    base = desk.aliases.get(asked.model, asked.model)
    trainable = {
        model.name: model.kind for model in list_models() if model.kind in ("causal", "vision")
    }
    if base not in trainable or not CALLER.get().allows_model(asked.model):
        raise Refused(
            f"Model {asked.model} is not available for fine-tuning or does not exist.",
            "model",
            "model_not_available",
        )
    if trainable[base] == "vision" and asked.kind != "supervised":
        raise Refused(
            f"Model {asked.model} sees, and is trained by the method `supervised` only.",
            "method",
            "unsupported_value",
        )
    for param in ("training_file", "validation_file"):
        _check_file(desk, getattr(asked, param), param)
    if asked.validation_file == asked.training_file:
        raise Refused("The validation file is the training file.", "validation_file", "same_file")
    own, now = f"ftjob-{token_hex(12)}", int(time.time())
    job = Job(
        id=own,
        created_at=now,
        status="validating_files",
        model=asked.model,
        base=base,
        suffix=asked.suffix,
        seed=random.randrange(2**31) if asked.seed is None else asked.seed,
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        method=asked.kind,
        asked=asked.asked,
        hyperparameters=asked.numbers,
        labels=asked.metadata,
        run=run_name(own, now),
    )
    files = f"training file: {asked.training_file}"
    if asked.validation_file:
        files += f" and validation file: {asked.validation_file}"
    first = [
        Happening("created", f"Created fine-tuning job: {own}"),
        Happening("validating", f"Validating {files}"),
    ]
    return desk.jobs.add(job, first)


def _check_file(desk: Desk, name: str | None, param: str) -> None:
    """Raises Refused for a file that isn't here or isn't for training."""
    if name is None:
        return
    try:
        file = desk.files.find(name)
    except NoSuchFile as error:
        raise Refused(f"{name} does not exist.", param, "file_not_found") from error
    if file.purpose != "fine-tune":
        raise Refused(
            f"{name} has the purpose `{file.purpose}`; it must be `fine-tune`.",
            param,
            "invalid_file_purpose",
        )


def _labelled(desk: Desk, asked: Mapping[str, str]) -> Select[Job]:
    """Jobs whose metadata holds each `metadata[k]=v` of the query; with `null`, those without."""
    if asked.get("metadata") == "null":
        return select(Job).where(Job.labels.is_(None))
    wanted = {
        name[9:-1]: value
        for name, value in asked.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if not wanted:
        return select(Job)
    with desk.store.reading() as session:
        labels = session.execute(select(Job.id, Job.labels).where(Job.labels.is_not(None))).all()
    found = [own for own, given in labels if wanted.items() <= (given or {}).items()]
    return select(Job).where(Job.id.in_(found))
