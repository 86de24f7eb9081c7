"""HTTP client of a remote server: its streams, and its errors in words.

The sockets live in an event loop of their own, so that a caller can leave at any moment: the
connection is then closed, and the server stops working.
"""

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2

from burnish.core.errors import PromptTooLong
from burnish.engines.external.process import EngineFailed

#: Seconds to connect, and between two checks whether the caller still waits.
_CONNECT_TIMEOUT, _POLL_INTERVAL = 10.0, 0.25
#: Maximum characters of a server's error message.
_MAX_ERROR_LENGTH = 500


class UpstreamUnavailable(EngineFailed):
    """The server can't be reached."""

    status = 503


class UpstreamTimeout(EngineFailed):
    """The server sent nothing for too long."""

    status = 504


class UpstreamBusy(EngineFailed):
    """The server accepts no more requests for now."""

    status = 429


class UpstreamRejected(EngineFailed):
    """The server rejected the request."""

    def __init__(self, what: str, fix: str = "", status: int = 400) -> None:
        super().__init__(what, fix)
        self.status = status


class UpstreamClient:
    """The client of one model's server. `close` ends the connections."""

    #: There is no child process that could exit.
    alive = True

    def __init__(self, name: str, url: str, key: str | None, timeout: float) -> None:
        """Create the client; `timeout` is the seconds that the server may be silent."""
        self.name, self.url, self._timeout = name, url.rstrip("/"), timeout
        self._client = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout, connect=min(_CONNECT_TIMEOUT, timeout), pool=None),
            limits=httpx2.Limits(max_connections=None),
            trust_env=not is_loopback(url),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """POST `body` as JSON (GET without one) to a path below `url`, or to a whole address;
        return the response's JSON. Raises EngineFailed."""
        return asyncio.run_coroutine_threadsafe(self._ask(path, body), self._loop).result()

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any] | None]:
        """POST `body`; yield the JSON of each event up to `[DONE]`, and None while nothing comes.

        Closing the iterator closes the connection. Raises EngineFailed, also for a stream that ends
        before `[DONE]`.
        """
        events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        reading = self._read_events(path, body, events.put)
        task: Future[None] = asyncio.run_coroutine_threadsafe(reading, self._loop)
        task.add_done_callback(lambda _: events.put(None))
        try:
            while True:
                try:
                    event = events.get(timeout=_POLL_INTERVAL)
                except queue.Empty:
                    yield None
                    continue
                if event is None:
                    task.result()
                    return
                yield event
        finally:
            task.cancel()

    def close(self) -> None:
        """End the connections."""
        if self._thread.is_alive():
            with suppress(OSError, RuntimeError):
                asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        url = path if path.startswith("http") else self.url + path
        try:
            response = await self._client.request("POST" if body else "GET", url, json=body)
        except httpx2.HTTPError as fault:
            raise self._connection_error(fault) from fault
        if response.status_code != 200:
            raise self._status_error(response)
        try:
            return response.json()
        except ValueError as fault:
            raise EngineFailed(f"{self.name} returned invalid JSON.") from fault

    async def _read_events(
        self, path: str, body: Mapping[str, Any], deliver: Callable[[dict[str, Any]], None]
    ) -> None:
        try:
            async with self._client.stream("POST", self.url + path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._status_error(response)
                async for line in response.aiter_lines():
                    kind, _, data = line.partition(":")
                    if kind != "data":  # a keep-alive comment, or an empty line
                        continue
                    if data.strip() == "[DONE]":
                        return
                    deliver(self._parse_event(data))
        except httpx2.HTTPError as fault:
            raise self._connection_error(fault) from fault
        raise EngineFailed(
            f"{self.name} closed the stream in the middle of an answer.", "Ask again."
        )

    def _parse_event(self, data: str) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError as fault:
            raise EngineFailed(f"{self.name} streamed invalid JSON.") from fault
        if not isinstance(event, dict) or event.get("error"):
            raise EngineFailed(f"{self.name} failed while it answered: {_error_message(data)}")
        return event

    def _connection_error(self, fault: httpx2.HTTPError) -> EngineFailed:
        why = str(fault) or type(fault).__name__
        if isinstance(fault, httpx2.ConnectError | httpx2.ConnectTimeout):
            return UpstreamUnavailable(f"{self.name} can't be reached: {why}", "Ask again later.")
        if isinstance(fault, httpx2.TimeoutException):
            return UpstreamTimeout(f"{self.name} sent nothing for {self._timeout:g} seconds.")
        return EngineFailed(f"The connection to {self.name} broke: {why}", "Ask again.")

    def _status_error(self, response: httpx2.Response) -> EngineFailed | PromptTooLong:
        """Return the error for a status other than 200. What only the operator can fix is a 502."""
        status, message = response.status_code, _error_message(response.text)
        what = f"{self.name} answers {status}: {message}"
        if status in _OPERATOR_FIXES:
            return EngineFailed(what, _OPERATOR_FIXES[status])
        if status == 429:
            return UpstreamBusy(what, "Ask again later.")
        if status == 503:
            return UpstreamUnavailable(what, "Ask again later.")
        if status in (408, 504):
            return UpstreamTimeout(what)
        if 400 <= status < 500:
            if "context" in message and any(
                word in message for word in ("exceed", "maximum", "holds")
            ):
                return PromptTooLong(what, "Shorten the prompt, or ask for a shorter answer.")
            return UpstreamRejected(what, status=status)
        return EngineFailed(what)


#: Statuses caused by this server's configuration, not by its client's request.
_OPERATOR_FIXES = {
    401: "For the operator: `key_from` of the upstream names the variable with its key.",
    403: "For the operator: the key may not use that model there.",
    404: "For the operator: check `url` (it ends before /completions) and `model` of the upstream.",
}


def is_loopback(url: str) -> bool:
    """Return whether a server is on this machine: what it is asked goes through no proxy."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _error_message(content: str) -> str:
    """Return the message in an error's body, if it has the usual form."""
    try:
        body = json.loads(content)
        error = body.get("error", body)
        content = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        pass
    return " ".join(content.split())[:_MAX_ERROR_LENGTH]
