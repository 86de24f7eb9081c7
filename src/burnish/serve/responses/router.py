"""Routes of /responses."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from burnish.serve.inference.dependencies import CurrentInference
from burnish.serve.inference.stream import http_response
from burnish.serve.openapi import event_stream
from burnish.serve.protocol import DeletedObject
from burnish.serve.responses.events import ResponseEvent
from burnish.serve.responses.protocol import CreateResponse, ResponseObject
from burnish.serve.responses.service import ResponseService
from burnish.serve.store.dependencies import CurrentWorkspace
from burnish.serve.vector_stores.service import VectorStores

router = APIRouter(prefix="/responses")


async def get_responses(
    inference: CurrentInference, workspace: CurrentWorkspace
) -> ResponseService:
    """Return the service of these routes."""
    return ResponseService(inference, workspace, VectorStores(workspace, inference.embedders))


Responses = Annotated[ResponseService, Depends(get_responses)]


@router.post(
    "",
    summary="Answer, streamed or not, and keep the answer",
    response_model=ResponseObject,
    responses={200: event_stream(ResponseEvent)},
)
async def create_response(request: CreateResponse, http: Request, responses: Responses) -> Response:
    """Answer the input, and keep the response unless `store` is false."""
    return http_response(await responses.create(request, http))


@router.get("/{name}", summary="Read a kept response", response_model=ResponseObject)
def get_response(name: str, responses: Responses) -> Response:
    """Return a kept response as it was sent."""
    return JSONResponse(responses.find(name))


@router.delete("/{name}", summary="Delete a kept response")
def delete_response(name: str, responses: Responses) -> DeletedObject:
    """Delete a kept response."""
    responses.delete(name)
    return DeletedObject(id=name, object="response.deleted")
