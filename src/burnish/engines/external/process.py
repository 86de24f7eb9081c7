"""An engine in a child process: a crash becomes an error message, not a crash of ours."""

import http.client
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Generator, Mapping, Sequence
from secrets import token_urlsafe
from typing import Any

import psutil

from burnish.core.errors import BurnishError, PromptTooLong
from burnish.core.settings import ENGINE_KEY, child_environment

#: Seconds for a child to load its model, and to answer one request.
_TIMEOUT = 600
_SIGNAL_REASONS = {
    signal.SIGILL: "it used an instruction that this processor doesn't have",
    signal.SIGKILL: "it was killed, most often for lack of memory",
    signal.SIGSEGV: "it crashed (segmentation fault)",
    signal.SIGABRT: "it gave up (abort)",
    signal.SIGBUS: "it crashed (bus error)",
}
#: Ignores the proxies of the environment: prompts must not leave this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
#: Runs a module until its stdin is closed, so that it never outlives its parent.
_EXIT_WITH_PARENT = (
    "import os, runpy, sys, threading\n"
    "module, *sys.argv[1:] = sys.argv[1:]\n"
    "watch = lambda: (sys.stdin.buffer.read(), os._exit(0))\n"
    "threading.Thread(target=watch, daemon=True).start()\n"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
)


class EngineFailed(BurnishError, RuntimeError):
    """An engine's process exited, or rejected a request."""

    status = 502
    code = 1


class EngineProcess:
    """A child process that serves HTTP. It ends with `close`, or when this object or this process
    does."""

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        url: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Start a module (the first word) with arguments and wait until it serves.

        Without `url` the child is one of burnish's own: it prints its address in a line of JSON,
        and rejects requests without the key that is in its environment. `settings` are further
        environment variables. Raises EngineFailed if it exits first.
        """
        self.name, self._key = name, token_urlsafe(32) if url is None else None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-c", _EXIT_WITH_PARENT, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if url is None else self._log,
            stderr=self._log,
            env=child_environment({**(settings or {}), ENGINE_KEY: self._key or ""}),
            # Ctrl-C goes to the parent, which may have answers to finish first.
            process_group=0,
        )
        self._end = weakref.finalize(self, _terminate, self._process)
        self.url = url or self._read_url()
        if url is not None:
            self._wait_until_ready()

    def ask(self, path: str, body: Mapping[str, Any] | None = None, key: str | None = None) -> Any:
        """POST `body` as JSON (GET without one) and return the response's JSON.

        Raises EngineFailed if the child has died or rejects the request; PromptTooLong if it
        reports that.
        """
        try:
            return _request_json(f"{self.url}{path}", body, key or self._key)
        except urllib.error.HTTPError as error:
            message = error.read().decode(errors="replace")[:500]
            if "context" in message and ("exceed" in message or "holds" in message):
                raise PromptTooLong(
                    "The prompt leaves no room in the engine's context.", "Shorten it."
                ) from error
            raise EngineFailed(f"{self.name} rejected a request: {message}") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._exit_error("while it answered") from error

    def stream(
        self, path: str, body: Mapping[str, Any], key: str | None = None
    ) -> Generator[dict[str, Any]]:
        """POST `body` and yield the JSON of each line, up to the one whose `stop` is true.

        Closing the iterator tells the child to stop. Raises EngineFailed if the child has died or
        rejects the request.
        """
        try:
            with _open_response(f"{self.url}{path}", body, key or self._key) as response:
                for line in response:
                    if not line.strip():
                        continue
                    event = json.loads(line.removeprefix(b"data: ").removeprefix(b"error: "))
                    if "error" in event:
                        raise EngineFailed(f"{self.name} rejected a request: {event['error']}")
                    yield event
                    if event.get("stop"):
                        return
        except urllib.error.HTTPError as error:
            message = error.read().decode(errors="replace")[:500]
            raise EngineFailed(f"{self.name} rejected a request: {message}") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._exit_error("while it answered") from error
        raise self._exit_error("while it answered")

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def memory_bytes(self) -> int:
        """Return the resident memory of the child."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def close(self) -> None:
        """End the child."""
        self._end()

    def _read_url(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b'{"url"'):
                return str(json.loads(line)["url"])
        raise self._exit_error("while it loaded the model")

    def _wait_until_ready(self) -> None:
        begun = time.monotonic()
        while self._process.poll() is None and time.monotonic() - begun < _TIMEOUT:
            try:
                _request_json(self.url, None, None)
            except urllib.error.HTTPError:  # any response means that it serves
                return
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise self._exit_error("while it loaded the model")

    def _exit_error(self, when: str) -> EngineFailed:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return EngineFailed(f"{self.name} doesn't answer {when}.", "Try again.")
        self._log.seek(0)
        output = self._log.read().decode(errors="replace").strip().splitlines()
        why = _SIGNAL_REASONS.get(-code, f"signal {-code}") if code < 0 else f"exit code {code}"  # type: ignore[call-overload]
        last = f" Its last output: {output[-1][:300]}" if output else ""
        return EngineFailed(
            f"The process of {self.name} exited {when}: {why}.{last}",
            "Export in another format or number format, or for another engine.",
        )


def _request_json(url: str, body: Mapping[str, Any] | None, key: str | None) -> Any:
    """Send one HTTP request and return its JSON; raises what `urllib` raises."""
    with _open_response(url, body, key) as answer:
        return json.load(answer)


def _open_response(
    url: str, body: Mapping[str, Any] | None, key: str | None
) -> http.client.HTTPResponse:
    """Send one HTTP request, POST if there is a body, and return the open response."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=content, headers=headers)
    answer: http.client.HTTPResponse = _DIRECT.open(request, timeout=_TIMEOUT)
    return answer


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Close the child's stdin, which tells it to exit; kill it if it doesn't."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
