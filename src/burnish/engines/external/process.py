"""An engine in a process of its own: if it crashes, that is an error of ours to explain."""

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

#: Seconds that a child gets to load its model, and to answer one request.
_TIMEOUT = 600
_SIGNAL_REASONS = {
    signal.SIGILL: "it used an instruction that this processor doesn't have",
    signal.SIGKILL: "it was killed, most often because memory ran out",
    signal.SIGSEGV: "it crashed (segmentation fault)",
    signal.SIGABRT: "it gave up (abort)",
    signal.SIGBUS: "it crashed (bus error)",
}
#: Without the proxies of the environment: what is asked must not leave this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
#: Runs a module until its standard input ends, so that it never outlives who started it.
_EXIT_WITH_PARENT = (
    "import os, runpy, sys, threading\n"
    "module, *sys.argv[1:] = sys.argv[1:]\n"
    "watch = lambda: (sys.stdin.buffer.read(), os._exit(0))\n"
    "threading.Thread(target=watch, daemon=True).start()\n"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
)


class EngineFailed(BurnishError, RuntimeError):
    """An engine's process ended, or refused what it was asked."""

    status = 502
    code = 1


class EngineProcess:
    """A child that serves HTTP. It ends with `close`, or when this object or this process does."""

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        url: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Start a module (the first word) with arguments and wait until it serves.

        Without `url` the child is one of ours: it prints a line of JSON that has it, and answers
        nobody without the key that it finds in its environment. `settings` are further variables
        of its environment. Raises EngineFailed if it ends before.
        """
        self.name, self._key = name, token_urlsafe(32) if url is None else None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-c", _EXIT_WITH_PARENT, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if url is None else self._log,
            stderr=self._log,
            env=child_environment({**(settings or {}), ENGINE_KEY: self._key or ""}),
            # Ctrl-C is for whoever started it, who may have answers to finish first.
            process_group=0,
        )
        self._end = weakref.finalize(self, _terminate, self._process)
        self.url = url or self._read_url()
        if url is not None:
            self._wait_until_ready()

    def ask(self, path: str, body: Mapping[str, Any] | None = None, key: str | None = None) -> Any:
        """POST `body` as JSON (GET without one); returns the answer's JSON.

        Raises EngineFailed if the child has died or refuses; PromptTooLong where it says so.
        """
        try:
            return _request_json(f"{self.url}{path}", body, key or self._key)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            if "context" in said and ("exceed" in said or "holds" in said):
                raise PromptTooLong(
                    "The prompt leaves no room in the engine's context.", "Shorten it."
                ) from error
            raise EngineFailed(f"{self.name} refused a request: {said}") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._exit_error("while it answered") from error

    def stream(
        self, path: str, body: Mapping[str, Any], key: str | None = None
    ) -> Generator[dict[str, Any]]:
        """POST `body`; yields the JSON of each line, up to the one whose `stop` is true.

        Closing the iterator tells the child that nobody listens. Raises EngineFailed if the child
        has died or refuses.
        """
        try:
            with _open_response(f"{self.url}{path}", body, key or self._key) as answer:
                for line in answer:
                    if not line.strip():
                        continue
                    said = json.loads(line.removeprefix(b"data: ").removeprefix(b"error: "))
                    if "error" in said:
                        raise EngineFailed(f"{self.name} refused a request: {said['error']}")
                    yield said
                    if said.get("stop"):
                        return
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise EngineFailed(f"{self.name} refused a request: {said}") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._exit_error("while it answered") from error
        raise self._exit_error("while it answered")

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def memory_bytes(self) -> int:
        """Resident memory of the child."""
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
            except urllib.error.HTTPError:  # it answers, and that is enough
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
        said = self._log.read().decode(errors="replace").strip().splitlines()
        why = _SIGNAL_REASONS.get(-code, f"signal {-code}") if code < 0 else f"exit code {code}"  # type: ignore[call-overload]
        last = f" Its last words: {said[-1][:300]}" if said else ""
        return EngineFailed(
            f"The process of {self.name} ended {when}: {why}.{last}",
            "Export in another format or number format, or for another engine.",
        )


def _request_json(url: str, body: Mapping[str, Any] | None, key: str | None) -> Any:
    """One HTTP request and its JSON; raises what `urllib` raises."""
    with _open_response(url, body, key) as answer:
        return json.load(answer)


def _open_response(
    url: str, body: Mapping[str, Any] | None, key: str | None
) -> http.client.HTTPResponse:
    """The answer to one HTTP request, POST if there is a body."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=content, headers=headers)
    answer: http.client.HTTPResponse = _DIRECT.open(request, timeout=_TIMEOUT)
    return answer


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """The end of its input tells a child to end."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
