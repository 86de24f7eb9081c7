"""The HTTP application: routes, guard, and one error shape for everything."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from burnish import __version__
from burnish.core.errors import BurnishError
from burnish.core.recipe.serve import Serve
from burnish.engines.scheduling.model_pool import ModelPool
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.serve import errors
from burnish.serve.auth.keys import ApiKeys
from burnish.serve.auth.rate_limit import RateLimiter
from burnish.serve.auth.tenant import as_organization
from burnish.serve.azure.router import management_routes
from burnish.serve.background.tasks import BackgroundTasks
from burnish.serve.batches import BatchWorker, batch_routes
from burnish.serve.files.router import file_routes
from burnish.serve.files.uploads import upload_routes
from burnish.serve.fine_tuning.router import job_routes
from burnish.serve.fine_tuning.worker import JobWorker
from burnish.serve.graders.router import grader_routes
from burnish.serve.health import health_routes
from burnish.serve.inference.embeddings import Embedders
from burnish.serve.inference.router import deployment_routes, inference_routes
from burnish.serve.inference.service import InferenceService
from burnish.serve.middleware.guard import LOOPBACK, AuthMiddleware
from burnish.serve.middleware.metrics import Metrics
from burnish.serve.middleware.observability import AuditLog, AuditMiddleware
from burnish.serve.responses.router import response_routes
from burnish.serve.store.workspace import Workspace
from burnish.serve.vector_stores.router import vector_store_routes
from burnish.serve.vector_stores.service import IndexingWorker, VectorStores


def create_app(
    model_pool: ModelPool,
    keys: ApiKeys,
    settings: Serve | None = None,
    hosts: Collection[str] = LOOPBACK,
    worker: JobWorker | None = None,
) -> FastAPI:
    """The application that answers with `fleet` to whoever has one of `keys`.

    `hosts` are the names that it answers to in the Host header; empty allows every name. With a
    `worker` there are files and fine-tuning jobs, and it works while the application runs. When the
    application ends, requests that have begun are finished first.
    """
    settings = settings or Serve()
    scheduler = Scheduler(settings.max_batch, prefix_bytes=settings.prefix_mebibytes * 2**20)
    rates = RateLimiter()
    desk = worker.workspace if worker else None
    audit = AuditLog(desk.home / "audit.jsonl") if desk else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        errands = _background_tasks(worker, house, keys, rates) if worker else None
        if worker and errands:
            worker.start()
            errands.start()
        yield
        if worker and errands:
            await run_in_threadpool(worker.stop)
            await run_in_threadpool(errands.stop)
        await run_in_threadpool(scheduler.close)
        if audit:
            await run_in_threadpool(audit.close)

    app = FastAPI(
        title="burnish",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.scheduler = scheduler
    embedders = Embedders(desk.aliases if desk else {})
    figures = _make_metrics(scheduler, desk)
    house = InferenceService(model_pool, scheduler, settings, desk, embedders, figures)
    _mount_routes(app, house)
    app.include_router(health_routes(house))
    app.add_exception_handler(BurnishError, errors.on_burnish_error)
    app.add_exception_handler(OSError, errors.on_storage_fault)
    app.add_exception_handler(DBAPIError, errors.on_storage_fault)
    app.add_exception_handler(HTTPException, errors.on_http_error)
    app.add_exception_handler(RequestValidationError, errors.on_bad_request)
    app.add_exception_handler(Exception, errors.on_unexpected_error)
    app.add_middleware(AuthMiddleware, keys=keys, hosts=hosts, rate_limiter=rates)
    app.add_middleware(AuditMiddleware, metrics=figures, audit=audit)
    return app


def _mount_routes(app: FastAPI, service: InferenceService) -> None:
    """Every route under each prefix: OpenAI's, Azure's of today, Azure's with a date."""
    router, desk = inference_routes(service), service.workspace
    if desk:
        router.include_router(file_routes(desk))
        router.include_router(upload_routes(desk))
        router.include_router(job_routes(service, desk))
        router.include_router(batch_routes(desk))
        vectors = VectorStores(desk, service.embedders)
        router.include_router(response_routes(service, vectors))
        router.include_router(vector_store_routes(vectors))
        app.include_router(management_routes(desk.deployments, service.describe_model))
    router.include_router(grader_routes(service))
    app.include_router(router, prefix="/v1")
    for prefix in ("/openai/v1", "/openai"):
        app.include_router(router, prefix=prefix, include_in_schema=False)
        app.include_router(deployment_routes(service), prefix=prefix, include_in_schema=False)


def _background_tasks(
    worker: JobWorker, service: InferenceService, keys: ApiKeys, rate_limiter: RateLimiter
) -> BackgroundTasks:
    """Work beside the jobs, in the loop that answers requests."""
    desk, loop = worker.workspace, asyncio.get_running_loop()
    errands = {
        "batch": BatchWorker(desk, service, keys, rate_limiter, loop).task,
        "file": IndexingWorker(VectorStores(desk, service.embedders)).task,
    }
    return BackgroundTasks(desk.store, errands, worker.lease, worker.tick)


def _make_metrics(scheduler: Scheduler, workspace: Workspace | None) -> Metrics:
    figures = Metrics()
    figures.add_gauge("burnish_running", "Answers being made.", lambda: scheduler.running)
    figures.add_gauge("burnish_waiting", "Requests that wait.", lambda: scheduler.waiting)
    if workspace:
        jobs = "Fine-tuning jobs that have not ended."
        figures.add_gauge(
            "burnish_jobs_unfinished", jobs, lambda: _count_unfinished_jobs(workspace)
        )
    return figures


def _count_unfinished_jobs(workspace: Workspace) -> int:
    with as_organization(None):
        return workspace.jobs.count_unfinished()
