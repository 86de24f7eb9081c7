"""Errors as OpenAI clients read them: `{"error": {"message", "type", "param", "code"}}`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

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


class RequestError(BurnishError):
    """A request that is understood and not answered; `param` names the field to blame."""

    def __init__(self, what: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(what)
        self.param, self.error_code = param, code


class ModelNotFound(RequestError):
    """No model of that name is served here."""

    status = 404


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error answer."""
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error answer. ASCII only: a message may quote text that UTF-8 cannot carry."""
    body = json.dumps(error_body(status, message, param, code))
    extra = dict(headers or {})
    if status == 429:
        extra.setdefault("retry-after", "1")
    return Response(body, status, extra, media_type="application/json")


def burnish_error_body(error: BurnishError) -> dict[str, Any]:
    """The body for one of our own errors."""
    param, code = _param_and_code(error)
    return error_body(error.status, str(error), param, code)


async def on_burnish_error(request: Request, error: Exception) -> Response:
    """Answer one of our own errors."""
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
    """Answer a body that doesn't validate with 400 and the first field to blame."""
    assert isinstance(error, RequestValidationError)
    faults: Sequence[Any] = error.errors()
    fault = faults[0]
    if fault["type"] == "json_invalid":
        return error_response(400, "We could not parse the JSON body of your request.")
    place = [str(part) for part in fault["loc"][1:]]
    if fault["type"] == "union_tag_invalid":  # the field that says which kind it is
        place.append(fault["ctx"]["discriminator"].strip("'"))
    param = ".".join(place) or None
    message = f"Invalid value for `{param}`: {fault['msg']}." if param else f"{fault['msg']}."
    return error_response(400, message, param, fault["type"])


async def on_storage_fault(request: Request, error: Exception) -> Response:
    """Answer a request whose bytes or row could not be written: nothing of it was acknowledged."""
    found = describe_disk_error(
        error if isinstance(error, OSError) else getattr(error, "orig", error)
    )
    if found is None:
        raise error
    what, fix = found
    said = f"{what}: nothing of this request was kept. {fix} on the server, then ask again."
    return error_response(StorageFailed.status, said, None, "storage_unavailable")


async def on_unexpected_error(request: Request, error: Exception) -> Response:
    """Answer what should not have happened: no trace leaves the server."""
    return error_response(500, "The server had an error while processing your request.")


def _param_and_code(error: BurnishError) -> tuple[str | None, str | None]:
    if isinstance(error, RequestError):
        return error.param, error.error_code
    code, param = _BURNISH_CODES.get(type(error), (None, None))
    return param, code
