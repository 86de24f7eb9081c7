"""Questions that the server asks itself, outside of any request: lines of a batch, graders."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.types import Message

from burnish.core.errors import BurnishError
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import burnish_error_body, error_body
from burnish.serve.inference.embeddings import EmbeddingRequest
from burnish.serve.inference.protocol import ChatRequest, CompletionRequest
from burnish.serve.inference.service import InferenceService

EndpointCall = Callable[[InferenceService, Mapping[str, Any]], Awaitable[Any]]


async def _chat(service: InferenceService, body: Mapping[str, Any]) -> Any:
    asked = ChatRequest.model_validate({**body, "stream": None})
    return json.loads(bytes((await service.chat(asked, _undisconnected_request())).body))


async def _complete(service: InferenceService, body: Mapping[str, Any]) -> Any:
    asked = CompletionRequest.model_validate({**body, "stream": None})
    return json.loads(bytes((await service.complete(asked, _undisconnected_request())).body))


async def _embed(service: InferenceService, body: Mapping[str, Any]) -> Any:
    return await service.embed(EmbeddingRequest.model_validate(dict(body)))


#: Path → how it is asked.
ENDPOINTS: dict[str, EndpointCall] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _complete,
    "/v1/embeddings": _embed,
}


async def call_endpoint(
    service: InferenceService, endpoint: str, body: Mapping[str, Any]
) -> tuple[int, Any]:
    """The status and the body that a client would get, with the key that it asks with."""
    word = endpoint.removeprefix("/v1/").partition("/")[0]
    if not CURRENT_KEY.get().allows_route(word):
        return 403, error_body(403, f"This key may not use `{word}`.", None, "route_not_allowed")
    try:
        return 200, await ENDPOINTS[endpoint](service, body)
    except BurnishError as error:
        return error.status, burnish_error_body(error)
    except ValidationError as error:
        fault = error.errors()[0]
        param = ".".join(str(part) for part in fault["loc"])
        said = f"Invalid value for `{param}`: {fault['msg']}."
        return 400, error_body(400, said, param, fault["type"])


def _undisconnected_request() -> Request:
    """A request whose client never leaves."""

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    return Request({"type": "http"}, receive)
