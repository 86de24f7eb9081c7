"""Errors as OpenAI clients read them: `{"error": {"message", "type", "param", "code"}}`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from burnish.core.disk_errors import describe_disk_error
from burnish.core.errors import BurnishError, PromptTooLong, StorageFailed
from burnish.engines.remote.http import (
    UpstreamBusy,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from burnish.engines.scheduling.scheduler import Overloaded

_TYPES = {401: "invalid_request_error", 403: "permission_error", 429: "requests"}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
_BURNISH_CODES: Mapping[type[BurnishError], tuple[str, str | None]] = {
    PromptTooLong: ("context_length_exceeded", "messages"),
    Overloaded: ("rate_limit_exceeded", None),
    UpstreamBusy: ("rate_limit_exceeded", None),
    UpstreamUnavailable: ("upstream_unavailable", None),
    UpstreamTimeout: ("upstream_timeout", None),
    UpstreamRejected: ("upstream_refused", None),
}


class ErrorDetails(TypedDict):
    """What went wrong; `param` names the field of the request that is at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(TypedDict):
    """The body of every error response."""

    error: ErrorDetails


class RequestError(BurnishError):
    """A request that is understood but refused; `param` names the field at fault."""

    def __init__(self, what: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(what)
        self.param, self.error_code = param, code


class ModelNotFound(RequestError):
    """No model of that name is served."""

    status = 404


class RouteNotAllowed(RequestError):
    """What a route would do for a key that may not do it by the route of its own."""

    status = 403


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> ErrorObject:
    """Return the body of an error response."""
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error response, in ASCII: a message may quote text that UTF-8 cannot encode."""
    body = json.dumps(error_body(status, message, param, code))
    extra = dict(headers or {})
    if status == 429:
        extra.setdefault("retry-after", "1")
    return Response(body, status, extra, media_type="application/json")


def burnish_error_body(error: BurnishError) -> ErrorObject:
    """Return the body for an error of burnish's own."""
    param, code = _param_and_code(error)
    return error_body(error.status, str(error), param, code)


async def on_burnish_error(request: Request, error: Exception) -> Response:
    """Answer an error of burnish's own."""
    assert isinstance(error, BurnishError)
    return error_response(error.status, str(error), *_param_and_code(error))


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path, a wrong method, a body that is too large."""
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = f"Unknown request URL: {request.method} {request.url.path}."
    if error.status_code == 405:
        message = f"Not allowed to {request.method} on {request.url.path}."
    code = _CODES.get(error.status_code)
    return error_response(error.status_code, message, None, code, error.headers)


async def on_bad_request(request: Request, error: Exception) -> Response:
    """Answer a request that fails validation with 400 and the first field at fault."""
    assert isinstance(error, RequestValidationError)
    faults: Sequence[Any] = error.errors()
    fault = faults[0]
    if fault["type"] == "json_invalid":
        return error_response(400, "We could not parse the JSON body of your request.")
    path = [str(part) for part in fault["loc"][1:]]
    if fault["type"] == "union_tag_invalid":  # the discriminator is the field at fault
        path.append(fault["ctx"]["discriminator"].strip("'"))
    param = ".".join(path) or None
    message = f"Invalid value for `{param}`: {fault['msg']}." if param else f"{fault['msg']}."
    return error_response(400, message, param, fault["type"])


async def on_storage_fault(request: Request, error: Exception) -> Response:
    """Answer a request whose bytes or row could not be written; none of it has been kept."""
    cause = error if isinstance(error, OSError) else getattr(error, "orig", error)
    description = describe_disk_error(cause)
    if description is None:
        raise error
    what, fix = description
    message = f"{what}: nothing of this request was kept. {fix} on the server, then ask again."
    return error_response(StorageFailed.status, message, None, "storage_unavailable")


async def on_unexpected_error(request: Request, error: Exception) -> Response:
    """Answer an unexpected error; no traceback leaves the server."""
    return error_response(500, "The server had an error while processing your request.")


def _param_and_code(error: BurnishError) -> tuple[str | None, str | None]:
    if isinstance(error, RequestError):
        return error.param, error.error_code
    code, param = _BURNISH_CODES.get(type(error), (None, None))
    return param, code
