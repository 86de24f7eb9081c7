"""Whether the server is up, whether it can work, and its figures."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from burnish.serve.inference.service import House


def health_routes(house: House) -> APIRouter:
    """/healthz and /readyz, which need no key, and /metrics, which does."""
    router = APIRouter()

    @router.get("/healthz", summary="Whether the server is up; needs no key")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @router.get("/readyz", summary="Whether it can take requests; needs no key")
    def readyz() -> JSONResponse:
        missing = [name for name, ready in _parts(house).items() if not ready]
        said = {"status": "not ready", "waits_for": missing} if missing else {"status": "ready"}
        return JSONResponse(said, 503 if missing else 200)

    @router.get("/metrics", summary="Figures in Prometheus's text format")
    def metrics() -> Response:
        return Response(house.figures.page(), media_type=CONTENT_TYPE_LATEST)

    return router


def _parts(house: House) -> dict[str, bool]:
    return {"models": house.scheduler.open, "store": house.desk is None or _answers(house)}


def _answers(house: House) -> bool:
    assert house.desk
    try:
        with house.desk.store.reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True
