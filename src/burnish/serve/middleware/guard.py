"""Middleware that checks host, key, size and rate of every request, and adds response headers.

The `Host` check keeps a web page that the user visits from reaching a server on loopback under the
page's own name (DNS rebinding).
"""

import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.serve.auth.keys import CURRENT_KEY, ApiKey, ApiKeys
from burnish.serve.auth.rate_limit import RateLimiter
from burnish.serve.auth.tenant import DEFAULT_ORGANIZATION, as_organization
from burnish.serve.errors import error_response

#: Paths that reveal nothing and need no key.
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_BYTES = 8 * 2**20
#: Bytes of a body where files or parts are uploaded, with their form fields. Only on exactly these
#: paths: elsewhere a body is JSON, which is held in memory.
UPLOAD_LIMITS = (
    (re.compile(r"(/openai)?(/v1)?/files"), 512 * 2**20 + 2**16),
    (re.compile(r"(/openai)?(/v1)?/uploads/[^/]+/parts"), 64 * 2**20 + 2**16),
)
#: Headers in which clients name their tenant, and the prefix of its id. An organization is its own
#: only project.
_TENANT_HEADERS = {"organization": "org-", "project": "proj_"}
_SAFE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass(frozen=True)
class AuthMiddleware:
    """ASGI middleware. `hosts` are the allowed names without port; empty allows every name."""

    app: ASGIApp
    keys: ApiKeys
    hosts: Collection[str] = LOOPBACK
    max_bytes: int = MAX_BYTES
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = self.keys.find(_sent_key(headers)) if _sent_key(headers) else None
        rate = self.rate_limiter.take(key) if key else {}
        sender = _HeaderSender(send, headers.get("x-request-id", ""), rate)
        limit = max_body_bytes(scope["path"], self.max_bytes)
        rejection = self._rejection(scope["path"], headers, limit, key)
        if not rejection and "retry-after" in rate:
            rejection = 429, "The rate limit of this key is exceeded.", "rate_limit_exceeded"
        if rejection:
            status, message, code = rejection
            response = error_response(status, message, None, code, {"connection": "close"})
            await response(scope, receive, sender.send)
            return
        if key is None:  # a path that needs none
            await self.app(scope, _limit_body(receive, limit), sender.send)
            return
        scope["burnish.key"], scope["burnish.organization"] = key.name, key.organization
        before = CURRENT_KEY.set(key)
        try:
            with as_organization(key.organization):
                await self.app(scope, _limit_body(receive, limit), sender.send)
        finally:
            CURRENT_KEY.reset(before)

    def _rejection(
        self, path: str, headers: Headers, limit: int, key: ApiKey | None
    ) -> tuple[int, str, str | None] | None:
        host = _host_name(headers.get("host", ""))
        if self.hosts and host not in self.hosts:
            return 400, "This server does not answer to that Host.", "invalid_host"
        if path in OPEN_PATHS:
            return None
        if not _sent_key(headers):
            message = "You didn't provide an API key: send `Authorization: Bearer KEY`."
            return 401, message, "invalid_api_key"
        if key is None:
            return 401, "Incorrect API key provided.", "invalid_api_key"
        if not key.allows_route(route := route_name(path)):
            return 403, f"This key may not use `{route}`.", "route_not_allowed"
        if route == "metrics" and key.organization != DEFAULT_ORGANIZATION:
            # They name the models of all organizations.
            return 403, "The metrics are for the operator.", "route_not_allowed"
        for header, prefix in _TENANT_HEADERS.items():
            tenant = headers.get(f"openai-{header}", "").removeprefix(prefix)
            if tenant not in ("", key.organization):
                message = f"OpenAI-{header.capitalize()} does not match the {header} of the key."
                return 401, message, f"mismatched_{header}"
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy and this server could take different bytes for the end of the request.
            return 400, "Content-Length and Transfer-Encoding exclude each other.", None
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "The Content-Length is not a number.", None
        if len(length) > 12 or int(length) > limit:
            return 413, _too_large_message(limit), "request_too_large"
        return None


def max_body_bytes(path: str, default: int = MAX_BYTES) -> int:
    """Return how many bytes a body may have."""
    return next((limit for pattern, limit in UPLOAD_LIMITS if pattern.fullmatch(path)), default)


def _limit_body(receive: Receive, limit: int) -> Receive:
    """Limit the bytes of a body that comes without its length."""
    read = 0

    async def receive_counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise HTTPException(413, _too_large_message(limit))
        return message

    return receive_counted


def _too_large_message(limit: int) -> str:
    return f"Maximum content size limit ({limit} bytes) exceeded."


class _HeaderSender:
    """Adds the headers that clients log: the request's id, and the time until the response."""

    def __init__(self, send: Send, request_id: str, rate: Mapping[str, str]) -> None:
        self._send, self._start, self._rate = send, time.perf_counter(), rate
        self._id = request_id if _SAFE_ID.fullmatch(request_id) else f"req_{token_hex(16)}"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._id
            milliseconds = (time.perf_counter() - self._start) * 1000
            headers["openai-processing-ms"] = f"{milliseconds:.0f}"
            headers["openai-version"] = "2020-10-01"
            headers.update(self._rate)
        await self._send(message)


def route_name(path: str) -> str:
    """Return the route of a path, by which keys are limited; a deployment's is its endpoint."""
    parts = [part for part in path.split("/") if part]
    while parts and parts[0] in ("openai", "v1"):
        del parts[0]
    if parts and parts[0] == "subscriptions":  # Azure's management API
        return "deployments"
    if parts and parts[0] == "deployments":
        return "chat" if path.endswith("/chat/completions") else parts[-1]
    return parts[0] if parts else ""


def _sent_key(headers: Headers) -> str:
    """Return the key that OpenAI clients (`Authorization`) or Azure clients (`api-key`) send."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("api-key", "")


def _host_name(host: str) -> str:
    """Return the name in a Host header without its port: `[::1]:8000` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
