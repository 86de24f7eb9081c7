"""What every request passes first: host, key, size; and the headers that every answer carries.

The `Host` check keeps a web page that the user visits from reaching a server on loopback under a
name of its own (DNS rebinding).
"""

import hmac
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.serve.errors import error_response

#: Paths that tell nothing and need no key.
OPEN_PATHS = frozenset({"/healthz"})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MOST_BYTES = 8 * 2**20
#: Where files are uploaded, a body may be a file (or a part of one) and the few fields around it.
UPLOADS = {"/files": 512 * 2**20 + 2**16, "/parts": 64 * 2**20 + 2**16}
_SAFE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass(frozen=True)
class Guard:
    """ASGI middleware. `hosts` are the allowed names without port; empty allows every name."""

    app: ASGIApp
    key: str
    hosts: Collection[str] = LOOPBACK
    most_bytes: int = MOST_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = _Answer(send, headers.get("x-request-id", ""))
        last = scope["path"][scope["path"].rfind("/") :]
        most = UPLOADS.get(last, self.most_bytes)
        refusal = self._refusal(scope["path"], headers, most)
        if refusal:
            status, message, code = refusal
            response = error_response(status, message, None, code, {"connection": "close"})
            await response(scope, receive, answer.send)
            return
        await self.app(scope, _limited(receive, most), answer.send)

    def _refusal(
        self, path: str, headers: Headers, most: int
    ) -> tuple[int, str, str | None] | None:
        host = _name(headers.get("host", ""))
        if self.hosts and host not in self.hosts:
            return 400, "This server does not answer to that Host.", "invalid_host"
        if path in OPEN_PATHS:
            return None
        given = _key(headers)
        if not given:
            message = "You didn't provide an API key: send `Authorization: Bearer KEY`."
            return 401, message, "invalid_api_key"
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            return 401, "Incorrect API key provided.", "invalid_api_key"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "The Content-Length is not a number.", None
        if len(length) > 12 or int(length) > most:
            return 413, _too_large(most), "request_too_large"
        return None


def _limited(receive: Receive, most: int) -> Receive:
    """Count the bytes of a body that comes without its length."""
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise HTTPException(413, _too_large(most))
        return message

    return counted


def _too_large(most: int) -> str:
    return f"Maximum content size limit ({most} bytes) exceeded."


class _Answer:
    """Adds the headers that clients log: which request, and how long until its answer began."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._begun = send, time.perf_counter()
        self._id = request_id if _SAFE_ID.fullmatch(request_id) else f"req_{token_hex(16)}"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._id
            spent = (time.perf_counter() - self._begun) * 1000
            headers["openai-processing-ms"] = f"{spent:.0f}"
            headers["openai-version"] = "2020-10-01"
        await self._send(message)


def _key(headers: Headers) -> str:
    """The key as OpenAI clients (`Authorization`) or Azure clients (`api-key`) send it."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("api-key", "")


def _name(host: str) -> str:
    """The name in a Host header, without its port: `[::1]:8000` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
