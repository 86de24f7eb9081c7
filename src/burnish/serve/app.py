"""The HTTP application: routes, middleware, and one error format for every response."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
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
from burnish.serve.azure.router import deployment_router, management_router
from burnish.serve.background.tasks import BackgroundTasks
from burnish.serve.batches.router import router as batches_router
from burnish.serve.batches.worker import BatchWorker
from burnish.serve.files.router import router as files_router
from burnish.serve.fine_tuning.router import router as fine_tuning_router
from burnish.serve.fine_tuning.worker import JobWorker
from burnish.serve.graders.router import router as graders_router
from burnish.serve.health.router import router as health_router
from burnish.serve.inference.embeddings import Embedders
from burnish.serve.inference.router import router as inference_router
from burnish.serve.inference.service import InferenceService
from burnish.serve.middleware.guard import LOOPBACK, AuthMiddleware
from burnish.serve.middleware.json_body import JsonBodyMiddleware
from burnish.serve.middleware.metrics import Metrics
from burnish.serve.middleware.observability import AuditLog, AuditMiddleware
from burnish.serve.openapi import ERROR_RESPONSES, DocumentedApp
from burnish.serve.responses.router import router as responses_router
from burnish.serve.store.workspace import Workspace
from burnish.serve.vector_stores.router import router as vector_stores_router
from burnish.serve.vector_stores.service import VectorStores
from burnish.serve.vector_stores.worker import IndexingWorker

#: Routes that need nothing but models.
_STATELESS_ROUTERS = (inference_router, graders_router)
#: Routes that keep something in the workspace.
_WORKSPACE_ROUTERS = (
    files_router,
    fine_tuning_router,
    batches_router,
    responses_router,
    vector_stores_router,
)


def create_app(
    model_pool: ModelPool,
    keys: ApiKeys,
    settings: Serve | None = None,
    hosts: Collection[str] = LOOPBACK,
    worker: JobWorker | None = None,
) -> FastAPI:
    """Build the application that answers with `model_pool` to the holders of `keys`.

    `hosts` are the allowed names in the Host header; empty allows every name. With a `worker` there
    are files and fine-tuning jobs, and the worker runs while the application does. When the
    application ends, requests that have begun are finished first.
    """
    settings = settings or Serve()
    scheduler = Scheduler(settings.max_batch, prefix_bytes=settings.prefix_mebibytes * 2**20)
    rate_limiter = RateLimiter()
    workspace = worker.workspace if worker else None
    audit = AuditLog(workspace.home / "audit.jsonl") if workspace else None
    embedders = Embedders(workspace.aliases if workspace else {})
    metrics = _make_metrics(scheduler, workspace)
    inference = InferenceService(model_pool, scheduler, settings, workspace, embedders, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = _background_tasks(worker, inference, keys, rate_limiter) if worker else None
        if worker and tasks:
            worker.start()
            tasks.start()
            app.state.background = (worker, tasks)
        yield
        if worker and tasks:
            await run_in_threadpool(worker.stop)
            await run_in_threadpool(tasks.stop)
        await run_in_threadpool(scheduler.close)
        if audit:
            await run_in_threadpool(audit.close)

    app = DocumentedApp(
        title="burnish",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=ERROR_RESPONSES,
    )
    app.state.background = ()
    app.state.scheduler = scheduler
    app.state.inference = inference
    app.state.workspace = workspace
    _include_routers(app, with_workspace=workspace is not None)
    _add_exception_handlers(app)
    app.add_middleware(JsonBodyMiddleware)
    app.add_middleware(AuthMiddleware, keys=keys, hosts=hosts, rate_limiter=rate_limiter)
    app.add_middleware(AuditMiddleware, metrics=metrics, audit=audit)
    return app


def _add_exception_handlers(app: FastAPI) -> None:
    """Give every error the shape that clients read."""
    app.add_exception_handler(BurnishError, errors.on_burnish_error)
    app.add_exception_handler(OSError, errors.on_storage_fault)
    app.add_exception_handler(DBAPIError, errors.on_storage_fault)
    app.add_exception_handler(HTTPException, errors.on_http_error)
    app.add_exception_handler(RequestValidationError, errors.on_bad_request)
    app.add_exception_handler(Exception, errors.on_unexpected_error)


def _include_routers(app: FastAPI, with_workspace: bool) -> None:
    """Mount the routes under OpenAI's prefix, Azure's current one, and Azure's dated one."""
    routers = _STATELESS_ROUTERS + (_WORKSPACE_ROUTERS if with_workspace else ())
    api = APIRouter()
    for router in routers:
        api.include_router(router)
    app.include_router(api, prefix="/v1")
    for prefix in ("/openai/v1", "/openai"):
        app.include_router(api, prefix=prefix, include_in_schema=False)
        app.include_router(deployment_router, prefix=prefix, include_in_schema=False)
    if with_workspace:
        app.include_router(management_router)
    app.include_router(health_router)


def _background_tasks(
    worker: JobWorker, inference: InferenceService, keys: ApiKeys, rate_limiter: RateLimiter
) -> BackgroundTasks:
    """Build the tasks for batches and vector stores; batches run in the current event loop."""
    workspace, loop = worker.workspace, asyncio.get_running_loop()
    tasks = {
        "batch": BatchWorker(workspace, inference, keys, rate_limiter, loop).task,
        "file": IndexingWorker(VectorStores(workspace, inference.embedders)).task,
    }
    return BackgroundTasks(workspace.store, tasks, worker.lease, worker.tick)


def _make_metrics(scheduler: Scheduler, workspace: Workspace | None) -> Metrics:
    metrics = Metrics()
    metrics.add_gauge("burnish_running", "Answers being generated.", lambda: scheduler.running)
    metrics.add_gauge("burnish_waiting", "Requests that wait.", lambda: scheduler.waiting)
    if workspace:
        metrics.add_gauge(
            "burnish_jobs_unfinished",
            "Fine-tuning jobs that have not ended.",
            lambda: _count_unfinished_jobs(workspace),
        )
    return metrics


def _count_unfinished_jobs(workspace: Workspace) -> int:
    with as_organization(None):
        return workspace.jobs.count_unfinished()
