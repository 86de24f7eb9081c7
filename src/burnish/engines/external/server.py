"""A small HTTP server around one model, shared by the ORT-GenAI and OpenVINO processes.

Started by `engines.external.process` with its parameters as JSON; it prints its address as a line
of JSON. Requests are served one after the other.
"""

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from secrets import compare_digest
from typing import Any

import numpy as np

from burnish.core.settings import engine_key

#: The valid names in a Host header: a page under another name must not reach the server.
_HOSTS = ("127.0.0.1", "localhost")
_MAX_BODY_BYTES = 64 * 2**20
#: What a library raises for an invalid request.
_FAULTS = (RuntimeError, ValueError, LookupError, TypeError)


class EngineServer(ABC):
    """One model: the next token's log-probabilities, and answers sampled from them."""

    #: The folder's own end-of-answer tokens.
    ends: Sequence[int]
    #: The owner of the last prompt.
    _owner: str = ""

    @abstractmethod
    def next_logprobs(self, ids: Sequence[int], behind: Sequence[int]) -> np.ndarray:
        """Return log-probabilities (vocabulary,) of the token after a prompt and some further
        tokens."""

    @abstractmethod
    def encode_chat(self, request: dict[str, Any]) -> list[int]:
        """Return the tokens of a conversation, rendered and encoded by the engine itself."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the tokens of plain text, by the engine's tokenizer."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, by the engine's tokenizer."""

    def select_adapter(self, request: dict[str, Any]) -> None:  # noqa: B027 most have no adapters
        """Switch to the adapter that the request names, where there are several."""

    def forget_prompt(self) -> None:  # noqa: B027 most keep nothing from prompt to prompt
        """Drop what is cached of the last prompt, where something is."""

    def select_owner(self, request: dict[str, Any]) -> None:
        """Forget the last prompt if it was another owner's, whom response times would tell it."""
        owner = request.get("owner", "")
        if owner != self._owner:
            self._owner = owner
            self.forget_prompt()

    def complete(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield each token of an answer with its log-probability, up to one of `ends`.

        The last item has `stop`, and `ended` says whether the answer ended by itself.
        """
        self.select_adapter(request)
        self.select_owner(request)
        generator = np.random.default_rng(request.get("seed"))
        tokens: list[int] = []
        while len(tokens) < request["most"]:
            logs = self.next_logprobs(request["ids"], tokens)
            token = _sample_token(
                logs, request.get("temperature", 0.0), request.get("top_p", 1.0), generator
            )
            if token in request["ends"]:
                yield {"stop": True, "ended": True}
                return
            tokens.append(token)
            top = np.argsort(-logs)[: request.get("top", 0)]
            logprobs = {"logprob": logs[token], "top": [[int(n), logs[n]] for n in top]}
            yield {"token": token, **logprobs}
        yield {"stop": True, "ended": False}

    def chat(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return an OpenAI chat completion, with the engine's own tokenizer."""
        ids = self.encode_chat(request)
        *tokens, last = self.complete(
            {"ids": ids, "most": request["max_tokens"], "ends": self.ends}
        )
        text = self.decode([token["token"] for token in tokens])
        return {
            "choices": [
                {
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop" if last["ended"] else "length",
                }
            ],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(tokens)},
        }

    def wanted_logprobs(self, request: dict[str, Any]) -> list[float]:
        """Return log-probabilities of the tokens `wanted`."""
        self.select_adapter(request)
        self.select_owner(request)
        logs = self.next_logprobs(request["ids"], request["behind"])
        return [float(logs[token]) for token in request["wanted"]]

    def tokenize(self, request: dict[str, Any]) -> list[int]:
        """Return the tokens of plain text."""
        return self.encode(request["content"])


def log_softmax(logits: Any) -> np.ndarray:
    """Return log-probabilities (vocabulary,) of the last row of logits (..., vocabulary)."""
    wide = np.asarray(logits, dtype=np.float64)
    last = wide.reshape(-1, wide.shape[-1])[-1]
    logs: np.ndarray = last - last.max() - np.log(np.exp(last - last.max()).sum())
    return logs


def _sample_token(
    logs: np.ndarray, temperature: float, top_p: float, generator: np.random.Generator
) -> int:
    """Return the likeliest token, or sample one from the nucleus `top_p`."""
    if not temperature:
        return int(logs.argmax())
    scaled = np.exp((logs - logs.max()) / temperature)
    order = np.argsort(-scaled)
    share = scaled[order] / scaled.sum()
    kept = np.cumsum(share) - share < top_p
    return int(generator.choice(order[kept], p=share[kept] / share[kept].sum()))


def make_handler(
    routes: Mapping[str, Callable[[dict[str, Any]], Any]], key: str
) -> type[BaseHTTPRequestHandler]:
    """Return a handler that answers POSTs of JSON by path; a request that the model rejects is a
    400 with the reason.

    Iterators are streamed, one line per item, for as long as the client listens. A request without
    the key is rejected: any program of this machine, and any web page, can reach the port.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if status := self._rejection():
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                return
            content = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, result = 200, routes[self.path](json.loads(content))
            except _FAULTS as error:
                status, result = 400, _error_body(error)
            if isinstance(result, Iterator):
                self._send_lines(result)
                return
            answer = json.dumps(result, default=float).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _rejection(self) -> int:
            """Return the status for a request that is rejected; 0 for any other."""
            host = self.headers.get("Host", "").rpartition(":")[0]
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            length = self.headers.get("Content-Length", "")
            if host not in _HOSTS:
                return 400
            if not compare_digest(token.encode("utf-8", "replace"), key.encode()):
                return 401
            if not (length.isascii() and length.isdigit() and len(length) < 12):
                return 411
            return 413 if int(length) > _MAX_BODY_BYTES else 0

        def _send_lines(self, items: Iterator[Any]) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                try:
                    for item in items:
                        self.wfile.write(json.dumps(item, default=float).encode() + b"\n")
                except _FAULTS as error:
                    self.wfile.write(json.dumps(_error_body(error)).encode() + b"\n")

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


def _error_body(error: Exception) -> dict[str, str]:
    return {"error": f"{type(error).__name__}: {error}"}


def serve(open_model: Callable[[dict[str, Any]], EngineServer]) -> None:
    """Open the server of the given parameters, and serve until the process is stopped."""
    model = open_model(json.loads(sys.argv[1]))
    routes = {
        "/complete": model.complete,
        "/next": model.wanted_logprobs,
        "/prompt": model.encode_chat,
        "/tokenize": model.tokenize,
        "/v1/chat/completions": model.chat,
    }
    server = HTTPServer(("127.0.0.1", 0), make_handler(routes, engine_key()))
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}) + "\n")
    sys.stdout.flush()
    os.dup2(2, 1)
    server.serve_forever()
