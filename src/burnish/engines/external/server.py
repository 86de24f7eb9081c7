"""What the processes of ORT-GenAI and OpenVINO share: a small HTTP server around one model.

Started by `engines.child` with its parameters as JSON; it prints its address as a line of JSON.
Requests come one after the other.
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

#: The names under which the server answers: a page of another name must not reach it.
_HOSTS = ("127.0.0.1", "localhost")
_MAX_BODY_BYTES = 64 * 2**20
#: What a library raises about a question.
_FAULTS = (RuntimeError, ValueError, LookupError, TypeError)


class EngineServer(ABC):
    """One model: the next token's log-probabilities, and answers made of them."""

    #: Tokens that end an answer, as the folder itself says.
    ends: Sequence[int]
    #: The owner of the last prompt.
    _owner: str = ""

    @abstractmethod
    def next_logprobs(self, ids: Sequence[int], behind: Sequence[int]) -> np.ndarray:
        """Log-probabilities (vocabulary,) of the token after a prompt and some tokens more."""

    @abstractmethod
    def encode_chat(self, asked: dict[str, Any]) -> list[int]:
        """Tokens of a conversation, rendered and encoded by the engine itself."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Tokens of plain text, by the engine's tokenizer."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, by the engine's tokenizer."""

    def select_adapter(self, asked: dict[str, Any]) -> None:  # noqa: B027 most have nothing to turn
        """Answer what is asked next with the weights that it names, where there are several."""

    def forget_prompt(self) -> None:  # noqa: B027 most keep nothing from prompt to prompt
        """Drop what is held of the last prompt, where something is."""

    def select_owner(self, asked: dict[str, Any]) -> None:
        """Forget the last prompt if it was another owner's: its time would tell what it was."""
        owner = asked.get("owner", "")
        if owner != self._owner:
            self._owner = owner
            self.forget_prompt()

    def complete(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Each token of an answer with its log-probability as it is made, up to one of `ends`.

        The last has `stop`, and says whether the answer has `ended` by itself.
        """
        self.select_adapter(asked)
        self.select_owner(asked)
        draw = np.random.default_rng(asked.get("seed"))
        made: list[int] = []
        while len(made) < asked["most"]:
            logs = self.next_logprobs(asked["ids"], made)
            token = _sample_token(
                logs, asked.get("temperature", 0.0), asked.get("top_p", 1.0), draw
            )
            if token in asked["ends"]:
                yield {"stop": True, "ended": True}
                return
            made.append(token)
            top = np.argsort(-logs)[: asked.get("top", 0)]
            told = {"logprob": logs[token], "top": [[int(n), logs[n]] for n in top]}
            yield {"token": token, **told}
        yield {"stop": True, "ended": False}

    def chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A chat completion as OpenAI has it, with the engine's own tokenizer."""
        ids = self.encode_chat(asked)
        *made, last = self.complete({"ids": ids, "most": asked["max_tokens"], "ends": self.ends})
        text = self.decode([one["token"] for one in made])
        return {
            "choices": [
                {
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop" if last["ended"] else "length",
                }
            ],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(made)},
        }

    def wanted_logprobs(self, asked: dict[str, Any]) -> list[float]:
        """Log-probabilities of the tokens `wanted`."""
        self.select_adapter(asked)
        self.select_owner(asked)
        logs = self.next_logprobs(asked["ids"], asked["behind"])
        return [float(logs[token]) for token in asked["wanted"]]

    def tokenize(self, asked: dict[str, Any]) -> list[int]:
        """Tokens of plain text."""
        return self.encode(asked["content"])


def log_softmax(logits: Any) -> np.ndarray:
    """Log-probabilities (vocabulary,) of the last row of logits (..., vocabulary)."""
    wide = np.asarray(logits, dtype=np.float64)
    last = wide.reshape(-1, wide.shape[-1])[-1]
    logs: np.ndarray = last - last.max() - np.log(np.exp(last - last.max()).sum())
    return logs


def _sample_token(
    logs: np.ndarray, temperature: float, top_p: float, draw: np.random.Generator
) -> int:
    """The likeliest token, or one drawn from those that make up `top_p`."""
    if not temperature:
        return int(logs.argmax())
    scaled = np.exp((logs - logs.max()) / temperature)
    order = np.argsort(-scaled)
    share = scaled[order] / scaled.sum()
    kept = np.cumsum(share) - share < top_p
    return int(draw.choice(order[kept], p=share[kept] / share[kept].sum()))


def make_handler(
    doors: Mapping[str, Callable[[dict[str, Any]], Any]], key: str
) -> type[BaseHTTPRequestHandler]:
    """Answers POSTs of JSON by path; what the model refuses is a 400 with the reason.

    What comes piece by piece is sent so, a line each, for as long as somebody listens. Without the
    key nobody is answered: any program of this machine, and any web page, can reach the port.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if status := self._refusal():
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, said = 200, doors[self.path](json.loads(body))
            except _FAULTS as error:
                status, said = 400, _error_body(error)
            if isinstance(said, Iterator):
                self._send_lines(said)
                return
            answer = json.dumps(said, default=float).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _refusal(self) -> int:
            """Return the status for a request that is not answered; 0 for any other."""
            host = self.headers.get("Host", "").rpartition(":")[0]
            sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
            length = self.headers.get("Content-Length", "")
            if host not in _HOSTS:
                return 400
            if not compare_digest(sent.encode("utf-8", "replace"), key.encode()):
                return 401
            if not (length.isascii() and length.isdigit() and len(length) < 12):
                return 411
            return 413 if int(length) > _MAX_BODY_BYTES else 0

        def _send_lines(self, said: Iterator[Any]) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                try:
                    for one in said:
                        self.wfile.write(json.dumps(one, default=float).encode() + b"\n")
                except _FAULTS as error:
                    self.wfile.write(json.dumps(_error_body(error)).encode() + b"\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _error_body(error: Exception) -> dict[str, str]:
    return {"error": f"{type(error).__name__}: {error}"}


def serve(open_runner: Callable[[dict[str, Any]], EngineServer]) -> None:
    """Open the runner of the parameters that were given, and serve until the process is ended."""
    runner = open_runner(json.loads(sys.argv[1]))
    doors = {
        "/complete": runner.complete,
        "/next": runner.wanted_logprobs,
        "/prompt": runner.encode_chat,
        "/tokenize": runner.tokenize,
        "/v1/chat/completions": runner.chat,
    }
    server = HTTPServer(("127.0.0.1", 0), make_handler(doors, engine_key()))
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}) + "\n")
    sys.stdout.flush()
    os.dup2(2, 1)
    server.serve_forever()
