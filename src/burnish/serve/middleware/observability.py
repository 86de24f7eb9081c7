"""What is noted of every request: figures for Prometheus, and who did what.

`audit.jsonl` in the workspace has a line for each request that changes something or is refused:
when, whose key, of which organisation, what, from where, and how it ended. Nothing that was said is
in it.
"""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.core.journal import Journal
from burnish.core.progress import say
from burnish.serve.middleware.metrics import Metrics

_READ_METHODS = ("GET", "HEAD", "OPTIONS")
#: Others are counted as one: a client must not make figures up.
_METHODS = (*_READ_METHODS, "POST", "PUT", "PATCH", "DELETE")
#: Letters of a path in the journal, which anybody may fill.
_MAX_PATH = 500


class AuditLog:
    """`audit.jsonl`, written by one thread: in order, and the event loop waits for no disk."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self._thread = ThreadPoolExecutor(1, "burnish-audit")

    async def write(self, **entry: Any) -> None:
        """Returns when the entry is on disk. An entry that was begun is written even if whoever
        waits for it is cancelled; one that cannot be written is said, for the request is done."""
        writing = self._thread.submit(copy_context().run, self._write, entry)
        await asyncio.shield(asyncio.wrap_future(writing))

    def close(self) -> None:
        """Write what has come in, and end the thread."""
        self._thread.shutdown()

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            self._journal.write(**entry)
        except OSError as fault:
            say(f"audit.jsonl lacks {entry['method']} {entry['path']}: {fault}")


@dataclass(frozen=True)
class AuditMiddleware:
    """ASGI middleware around everything else."""

    app: ASGIApp
    metrics: Metrics
    audit: AuditLog | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how it went."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, seen = time.perf_counter(), dict[str, Any](status=499, id="", noted=False)

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                seen.update(status=message["status"])
                seen.update(id=headers.get(b"x-request-id", b"").decode("latin-1"))
            elif not message.get("more_body"):  # who has the whole answer finds it noted
                await self._record(scope, seen, time.perf_counter() - begun)
            await send(message)

        try:
            await self.app(scope, receive, send_and_record)
        finally:
            await self._record(scope, seen, time.perf_counter() - begun)

    async def _record(self, scope: Scope, seen: dict[str, Any], seconds: float) -> None:
        if seen["noted"]:
            return
        seen["noted"] = True
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "?"
        self.metrics.requests.labels(method, route, str(seen["status"])).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if self.audit and (method not in _READ_METHODS or seen["status"] >= 400):
            client = scope.get("client")
            await self.audit.write(
                key=scope.get("burnish.key"),
                organization=scope.get("burnish.organization"),
                method=method,
                path=scope["path"][:_MAX_PATH].encode("utf-8", "replace").decode(),
                status=seen["status"],
                request=seen["id"],
                client=client[0] if client else None,
                seconds=round(seconds, 3),
            )
