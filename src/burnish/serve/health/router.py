"""Routes of the health checks, which need no key, and of /metrics, which does."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from burnish.serve.health.protocol import Health, Readiness
from burnish.serve.health.service import failing_threads, unready_parts
from burnish.serve.inference.dependencies import CurrentInference

router = APIRouter()


@router.get("/healthz", summary="Check that the server is up; needs no key")
async def healthz() -> Health:
    """Answer at once."""
    return Health()


@router.get(
    "/readyz",
    summary="Check that the server can take requests; needs no key",
    responses={503: {"model": Readiness, "description": "The server is not ready."}},
)
def readyz(inference: CurrentInference, request: Request, response: Response) -> Readiness:
    """Check the scheduler, the store and the threads that work in the background."""
    if unready := unready_parts(inference) + failing_threads(request.app.state.background):
        response.status_code = 503
        return Readiness(status="not ready", waits_for=unready)
    return Readiness(status="ready")


@router.get(
    "/metrics", summary="Metrics in Prometheus's text format", response_class=PlainTextResponse
)
def metrics(inference: CurrentInference) -> Response:
    """Render the metrics of the server."""
    return Response(inference.metrics.render(), media_type=CONTENT_TYPE_LATEST)
