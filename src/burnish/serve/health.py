"""Whether the server is up, whether it can work, and its figures."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from burnish.serve.inference.service import InferenceService


def health_routes(service: InferenceService) -> APIRouter:
    """/healthz and /readyz, which need no key, and /metrics, which does."""
    router = APIRouter()

    @router.get("/healthz", summary="Whether the server is up; needs no key")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @router.get("/readyz", summary="Whether it can take requests; needs no key")
    def readyz() -> JSONResponse:
        missing = [name for name, ready in _readiness(service).items() if not ready]
        said = {"status": "not ready", "waits_for": missing} if missing else {"status": "ready"}
        return JSONResponse(said, 503 if missing else 200)

    @router.get("/metrics", summary="Figures in Prometheus's text format")
    def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router


def _readiness(service: InferenceService) -> dict[str, bool]:
    return {
        "models": service.scheduler.open,
        "store": service.workspace is None or _store_answers(service),
    }


def _store_answers(service: InferenceService) -> bool:
    assert service.workspace
    try:
        with service.workspace.store.reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True
