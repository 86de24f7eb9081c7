"""Routes of /fine_tuning/jobs."""

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from burnish.serve.fine_tuning.protocol import (
    CreateJob,
    JobCheckpointObject,
    JobEventObject,
    JobObject,
    checkpoint_object,
    event_object,
    job_object,
)
from burnish.serve.fine_tuning.service import check_reinforcement, create_job, filter_by_metadata
from burnish.serve.inference.dependencies import CurrentInference
from burnish.serve.protocol import ListPage, PageLimit
from burnish.serve.store.dependencies import CurrentWorkspace
from burnish.serve.store.schema import JobCheckpoint, JobEventRow

router = APIRouter(prefix="/fine_tuning/jobs")


@router.post("", summary="Create a fine-tuning job")
async def create_fine_tuning_job(
    request: CreateJob, inference: CurrentInference, workspace: CurrentWorkspace
) -> JobObject:
    """Create a job; its files are checked in the background."""
    await check_reinforcement(inference, request)
    return job_object(await run_in_threadpool(create_job, workspace, request))


@router.get("", summary="List the jobs, newest first")
def list_jobs(
    http: Request, workspace: CurrentWorkspace, after: str | None = None, limit: PageLimit = 20
) -> ListPage[JobObject]:
    """List jobs, filtered by `metadata[key]=value` where the query has it."""
    query = filter_by_metadata(workspace, http.query_params)
    return ListPage[JobObject].of(*workspace.jobs.page(query, after, limit), job_object)


@router.get("/{name}", summary="Describe one job")
def get_job(name: str, workspace: CurrentWorkspace) -> JobObject:
    """Describe a job."""
    return job_object(workspace.jobs.find(name))


# Azure's documentation asks for both lists by POST.
@router.post("/{name}/events", include_in_schema=False)
@router.get("/{name}/events", summary="List the events of a job, newest first")
def list_events(
    name: str, workspace: CurrentWorkspace, after: str | None = None, limit: PageLimit = 20
) -> ListPage[JobEventObject]:
    """List the events of a job."""
    rows, has_more = workspace.jobs.page_children(JobEventRow, name, after, limit)
    return ListPage[JobEventObject].of(rows, has_more, event_object)


@router.post("/{name}/checkpoints", include_in_schema=False)
@router.get("/{name}/checkpoints", summary="List the checkpoints of a job, newest first")
def list_checkpoints(
    name: str, workspace: CurrentWorkspace, after: str | None = None, limit: PageLimit = 10
) -> ListPage[JobCheckpointObject]:
    """List the checkpoints of a job, each of which is a model."""
    rows, has_more = workspace.jobs.page_children(JobCheckpoint, name, after, limit)
    return ListPage[JobCheckpointObject].of(rows, has_more, checkpoint_object)


@router.post("/{name}/cancel", summary="Cancel a job")
def cancel_job(name: str, workspace: CurrentWorkspace) -> JobObject:
    """Cancel a job that has not ended."""
    return job_object(workspace.jobs.transition(name, "cancel"))


@router.post("/{name}/pause", summary="Pause a job")
def pause_job(name: str, workspace: CurrentWorkspace) -> JobObject:
    """Pause a queued or running job."""
    return job_object(workspace.jobs.transition(name, "pause"))


@router.post("/{name}/resume", summary="Resume a job")
def resume_job(name: str, workspace: CurrentWorkspace) -> JobObject:
    """Resume a paused job from its last checkpoint."""
    return job_object(workspace.jobs.transition(name, "resume"))
