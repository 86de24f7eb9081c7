"""Middleware that refuses JSON bodies that would cost far more than their bytes, or break later.

A list of a million empty objects has 3 MB, and becomes a gigabyte of records and their errors. Half
of a surrogate pair is text for JSON, and for no database or file.
"""

import re
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.core.json_text import BadJson, parse_json
from burnish.serve.errors import error_response
from burnish.serve.middleware.guard import MAX_BYTES, max_body_bytes

#: Objects and arrays of one body, counted as opening brackets, those within texts included.
MAX_CONTAINERS = 100_000
#: Values of one body, counted as commas: 2048 texts of 512 tokens each have as many.
MAX_VALUES = 1_100_000
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class JsonBodyMiddleware:
    """ASGI middleware. The bodies of uploads are forms, and pass."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on once its body has been looked at, or answer it with 400."""
        if scope["type"] != "http" or not _may_be_json(scope):
            await self.app(scope, receive, send)
            return
        messages: list[Message] = []
        try:
            while not messages or messages[-1].get("more_body"):
                messages.append(await receive())
        except HTTPException as error:  # the body is larger than allowed
            response = error_response(error.status_code, error.detail, None, "request_too_large")
            await response(scope, receive, send)
            return
        body = b"".join(message.get("body", b"") for message in messages)
        if fault := body_fault(body):
            await error_response(400, fault, None, "invalid_json")(scope, receive, send)
            return
        last = messages[-1]
        replayed = [
            last if last["type"] != "http.request" else {"type": "http.request", "body": body}
        ]

        async def receive_replayed() -> Message:
            return replayed.pop() if replayed else await receive()

        await self.app(scope, receive_replayed, send)


def body_fault(body: bytes) -> str:
    """Return why a JSON body is refused; empty if it is not."""
    containers, values = body.count(b"{") + body.count(b"["), body.count(b",")
    if containers > MAX_CONTAINERS:
        return (
            f"The body has {containers} objects and arrays; at most {MAX_CONTAINERS} are allowed."
        )
    if values > MAX_VALUES:
        return f"The body has {values} values; at most {MAX_VALUES} are allowed."
    if _SURROGATE.search(body):
        try:
            parse_json(body.decode("utf-8", "replace"))
        except BadJson as error:
            return f"We could not parse the JSON body of your request: {error.reason}."
    return ""


def _may_be_json(scope: Scope) -> bool:
    is_upload = max_body_bytes(scope["path"]) > MAX_BYTES  # a form, which is not held in memory
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") and not is_upload
