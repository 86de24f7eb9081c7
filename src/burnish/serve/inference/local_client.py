"""Call an endpoint in-process: for the lines of a batch and for graders."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.types import Message

from burnish.core.errors import BurnishError
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import burnish_error_body, error_body
from burnish.serve.inference.protocol import ChatRequest, CompletionRequest, EmbeddingRequest
from burnish.serve.inference.service import InferenceService
from burnish.serve.protocol import ApiModel


async def _chat(service: InferenceService, request: ChatRequest) -> object:
    return await service.chat(request, _undisconnected_request())


async def _complete(service: InferenceService, request: CompletionRequest) -> object:
    return await service.complete(request, _undisconnected_request())


#: The request of each endpoint by its path, and how the service answers it.
ENDPOINTS: dict[str, tuple[type[ApiModel], Callable[..., Awaitable[object]]]] = {
    "/v1/chat/completions": (ChatRequest, _chat),
    "/v1/completions": (CompletionRequest, _complete),
    "/v1/embeddings": (EmbeddingRequest, InferenceService.embed),
}


async def call_endpoint(
    service: InferenceService, endpoint: str, body: Mapping[str, Any]
) -> tuple[int, Any]:
    """Return the status and the JSON body that a client with the current key would get."""
    route = endpoint.removeprefix("/v1/").partition("/")[0]
    if not CURRENT_KEY.get().allows_route(route):
        return 403, error_body(403, f"This key may not use `{route}`.", None, "route_not_allowed")
    request_type, answer = ENDPOINTS[endpoint]
    try:
        request = request_type.model_validate({**body, "stream": None})
    except ValidationError as error:
        fault = error.errors()[0]
        param = ".".join(str(part) for part in fault["loc"])
        message = f"Invalid value for `{param}`: {fault['msg']}."
        return 400, error_body(400, message, param, fault["type"])
    try:
        result = await answer(service, request)
    except BurnishError as error:
        return error.status, burnish_error_body(error)
    assert isinstance(result, BaseModel), "a request in-process is not streamed and not left"
    return 200, result.model_dump(mode="json")


def _undisconnected_request() -> Request:
    """Return a request whose client never disconnects."""

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    return Request({"type": "http"}, receive)
