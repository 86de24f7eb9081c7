"""Middleware that records every request: metrics for Prometheus, and the audit log.

`audit.jsonl` in the workspace has a line for each request that changes something or is refused:
time, key, organization, method and path, client address, status. It holds no content.
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
#: Other methods are counted as one: a client must not create metrics.
_METHODS = (*_READ_METHODS, "POST", "PUT", "PATCH", "DELETE")
#: Characters of a path in the log, as clients choose the path.
_MAX_PATH = 500
#: Full files of the log that are kept.
_KEPT_FILES = 15


class AuditLog:
    """`audit.jsonl`, written in order by one thread: the event loop never waits for a disk.

    When it has `max_bytes` it becomes `audit.jsonl.1`, the one before `audit.jsonl.2`, and so on.
    """

    def __init__(self, path: Path, max_bytes: int = 64 * 2**20) -> None:
        self._journal, self.max_bytes = Journal(path), max_bytes
        self._thread = ThreadPoolExecutor(1, "burnish-audit")

    async def write(self, **entry: Any) -> None:
        """Write an entry, and return when it is on disk.

        The entry is written even if the caller is cancelled. One that cannot be written is
        reported, as the request is done already.
        """
        future = self._thread.submit(copy_context().run, self._write, entry)
        await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        """Write the entries that are waiting, and end the thread."""
        self._thread.shutdown()

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            self._rotate()
            self._journal.write(**entry)
        except OSError as fault:
            say(f"audit.jsonl lacks {entry['method']} {entry['path']}: {fault}")

    def _rotate(self) -> None:
        """Begin a new file when this one is full; the oldest of those that are kept goes."""
        path = self._journal.path
        if not path.exists() or path.stat().st_size < self.max_bytes:
            return
        for number in range(_KEPT_FILES, 1, -1):
            older = path.with_suffix(f".jsonl.{number - 1}")
            if older.exists():
                older.replace(path.with_suffix(f".jsonl.{number}"))
        path.replace(path.with_suffix(".jsonl.1"))


@dataclass(frozen=True)
class AuditMiddleware:
    """ASGI middleware around all others."""

    app: ASGIApp
    metrics: Metrics
    audit: AuditLog | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record its outcome."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, outcome = time.perf_counter(), dict[str, Any](status=499, id="", recorded=False)

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                outcome.update(status=message["status"])
                outcome.update(id=headers.get(b"x-request-id", b"").decode("latin-1"))
            elif not message.get("more_body"):  # recorded before the client has the whole response
                await self._record(scope, outcome, time.perf_counter() - start)
            await send(message)

        try:
            await self.app(scope, receive, send_and_record)
        finally:
            await self._record(scope, outcome, time.perf_counter() - start)

    async def _record(self, scope: Scope, outcome: dict[str, Any], seconds: float) -> None:
        if outcome["recorded"]:
            return
        outcome["recorded"] = True
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "?"
        self.metrics.requests.labels(method, route, str(outcome["status"])).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if self.audit and (method not in _READ_METHODS or outcome["status"] >= 400):
            client = scope.get("client")
            await self.audit.write(
                key=scope.get("burnish.key"),
                organization=scope.get("burnish.organization"),
                method=method,
                path=scope["path"][:_MAX_PATH].encode("utf-8", "replace").decode(),
                status=outcome["status"],
                request=outcome["id"],
                client=client[0] if client else None,
                seconds=round(seconds, 3),
            )
