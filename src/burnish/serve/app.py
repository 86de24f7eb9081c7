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
from burnish.engines.scheduling.model_pool import Fleet
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.serve import errors
from burnish.serve.auth.keys import Keys
from burnish.serve.auth.rate_limit import Rates
from burnish.serve.auth.tenant import acting_for
from burnish.serve.azure.router import management_routes
from burnish.serve.background.tasks import Errands
from burnish.serve.batches import BatchWork, batch_routes
from burnish.serve.files.router import file_routes
from burnish.serve.files.uploads import upload_routes
from burnish.serve.fine_tuning.router import job_routes
from burnish.serve.fine_tuning.worker import Worker
from burnish.serve.graders.router import grader_routes
from burnish.serve.health import health_routes
from burnish.serve.inference.embeddings import Embedders
from burnish.serve.inference.router import deployment_routes, routes
from burnish.serve.inference.service import House
from burnish.serve.middleware.guard import LOOPBACK, Guard
from burnish.serve.middleware.metrics import Figures
from burnish.serve.middleware.observability import Audit, Watch
from burnish.serve.responses.router import response_routes
from burnish.serve.store.workspace import Desk
from burnish.serve.vector_stores.router import vector_routes
from burnish.serve.vector_stores.service import Vectors, VectorWork


def create_app(
    fleet: Fleet,
    keys: Keys,
    settings: Serve | None = None,
    hosts: Collection[str] = LOOPBACK,
    worker: Worker | None = None,
) -> FastAPI:
    """The application that answers with `fleet` to whoever has one of `keys`.

    `hosts` are the names that it answers to in the Host header; empty allows every name. With a
    `worker` there are files and fine-tuning jobs, and it works while the application runs. When the
    application ends, requests that have begun are finished first.
    """
    settings = settings or Serve()
    scheduler = Scheduler(settings.max_batch, prefix_bytes=settings.prefix_mebibytes * 2**20)
    rates = Rates()
    desk = worker.desk if worker else None
    audit = Audit(desk.home / "audit.jsonl") if desk else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        errands = _errands(worker, house, keys, rates) if worker else None
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
    figures = _figures(scheduler, desk)
    house = House(fleet, scheduler, settings, desk, embedders, figures)
    _mount(app, house)
    app.include_router(health_routes(house))
    app.add_exception_handler(BurnishError, errors.on_burnish_error)
    app.add_exception_handler(OSError, errors.on_storage_fault)
    app.add_exception_handler(DBAPIError, errors.on_storage_fault)
    app.add_exception_handler(HTTPException, errors.on_http_error)
    app.add_exception_handler(RequestValidationError, errors.on_bad_request)
    app.add_exception_handler(Exception, errors.on_fault)
    app.add_middleware(Guard, keys=keys, hosts=hosts, rates=rates)
    app.add_middleware(Watch, figures=figures, audit=audit)
    return app


def _mount(app: FastAPI, house: House) -> None:
    """Every route under each prefix: OpenAI's, Azure's of today, Azure's with a date."""
    router, desk = routes(house), house.desk
    if desk:
        router.include_router(file_routes(desk))
        router.include_router(upload_routes(desk))
        router.include_router(job_routes(house, desk))
        router.include_router(batch_routes(desk))
        vectors = Vectors(desk, house.embedders)
        router.include_router(response_routes(house, vectors))
        router.include_router(vector_routes(vectors))
        app.include_router(management_routes(desk.deployments, house.card))
    router.include_router(grader_routes(house))
    app.include_router(router, prefix="/v1")
    for prefix in ("/openai/v1", "/openai"):
        app.include_router(router, prefix=prefix, include_in_schema=False)
        app.include_router(deployment_routes(house), prefix=prefix, include_in_schema=False)


def _errands(worker: Worker, house: House, keys: Keys, rates: Rates) -> Errands:
    """Work beside the jobs, in the loop that answers requests."""
    desk, loop = worker.desk, asyncio.get_running_loop()
    errands = {
        "batch": BatchWork(desk, house, keys, rates, loop).errand,
        "file": VectorWork(Vectors(desk, house.embedders)).errand,
    }
    return Errands(desk.store, errands, worker.lease, worker.tick)


def _figures(scheduler: Scheduler, desk: Desk | None) -> Figures:
    figures = Figures()
    figures.gauge("burnish_running", "Answers being made.", lambda: scheduler.running)
    figures.gauge("burnish_waiting", "Requests that wait.", lambda: scheduler.waiting)
    if desk:
        jobs = "Fine-tuning jobs that have not ended."
        figures.gauge("burnish_jobs_unfinished", jobs, lambda: _everybodys_jobs(desk))
    return figures


def _everybodys_jobs(desk: Desk) -> int:
    with acting_for(None):
        return desk.jobs.unfinished()
