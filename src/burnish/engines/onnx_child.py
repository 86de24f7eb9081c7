"""The process that ORT-GenAI runs in: a small HTTP server around one model, until it is ended.

Started by `engines.child` with its parameters as JSON; it prints its address as a line of JSON.
Requests come one after the other. A prompt's keys and values are kept for the next question about
the same prompt.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og


class Runner:
    """One model: the next token's log-probabilities, and answers made of them."""

    def __init__(self, folder: str, context: int, threads: int) -> None:
        config = og.Config(folder)
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self.model, self.context = og.Model(config), context
        self.tokenizer = og.Tokenizer(self.model)
        told = json.loads((Path(folder) / "genai_config.json").read_text(encoding="utf-8"))
        ends = told["model"]["eos_token_id"]
        self.ends = ends if isinstance(ends, list) else [ends]
        self._prompt: list[int] = []
        self._behind: list[int] = []
        self._generator: Any = None

    def logs(self, ids: Sequence[int], behind: Sequence[int]) -> np.ndarray:
        """Log-probabilities (vocabulary,) of the token after a prompt and some tokens more."""
        ids, behind = list(ids), list(behind)
        if self._generator is None or self._prompt != ids or not behind:
            parameters = og.GeneratorParams(self.model)
            parameters.set_search_options(max_length=self.context)
            self._generator = og.Generator(self.model, parameters)
            self._generator.append_tokens(np.array(ids, dtype=np.int32))
            self._prompt, self._behind = ids, []
        same = 0
        while same < min(len(behind) - 1, len(self._behind)) and behind[same] == self._behind[same]:
            same += 1
        if behind:
            if same < len(self._behind):
                self._generator.rewind_to(len(ids) + same)
            for token in behind[same:]:
                self._generator.append_tokens(np.array([token], dtype=np.int32))
            self._behind = behind
        logits = np.asarray(self._generator.get_logits(), dtype=np.float64)
        last = logits.reshape(-1, logits.shape[-1])[-1]
        logs: np.ndarray = last - last.max() - np.log(np.exp(last - last.max()).sum())
        return logs

    def complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Tokens of an answer with their log-probabilities, up to one of `ends`."""
        draw = np.random.default_rng(asked.get("seed"))
        made: list[int] = []
        told: list[dict[str, Any]] = []
        while len(made) < asked["most"]:
            logs = self.logs(asked["ids"], made)
            token = _drawn(logs, asked.get("temperature", 0.0), asked.get("top_p", 1.0), draw)
            if token in asked["ends"]:
                return {"tokens": made, "told": told, "ended": True}
            made.append(token)
            top = np.argsort(-logs)[: asked.get("top", 0)]
            told.append({"logprob": logs[token], "top": [[int(n), logs[n]] for n in top]})
        return {"tokens": made, "told": told, "ended": False}

    def prompt(self, asked: dict[str, Any]) -> list[int]:
        """Tokens of a conversation, rendered and encoded by ORT-GenAI itself."""
        text = self.tokenizer.apply_chat_template(
            json.dumps(asked["messages"]),
            tools=json.dumps(asked["tools"]) if asked.get("tools") else None,
            add_generation_prompt=True,
        )
        return [int(token) for token in self.tokenizer.encode(text)]

    def chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A chat completion as OpenAI has it, with ORT-GenAI's own tokenizer."""
        ids = self.prompt(asked)
        made = self.complete({"ids": ids, "most": asked["max_tokens"], "ends": self.ends})
        text = self.tokenizer.decode(np.array(made["tokens"], dtype=np.int32))
        return {
            "choices": [
                {
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop" if made["ended"] else "length",
                }
            ],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(made["tokens"])},
        }

    def next(self, asked: dict[str, Any]) -> list[float]:
        """Log-probabilities of the tokens `wanted`."""
        logs = self.logs(asked["ids"], asked["behind"])
        return [float(logs[token]) for token in asked["wanted"]]

    def tokenize(self, asked: dict[str, Any]) -> list[int]:
        """Tokens of plain text."""
        return [int(token) for token in self.tokenizer.encode(asked["content"])]


def _drawn(logs: np.ndarray, temperature: float, top_p: float, draw: np.random.Generator) -> int:
    """The likeliest token, or one drawn from those that make up `top_p`."""
    if not temperature:
        return int(logs.argmax())
    scaled = np.exp((logs - logs.max()) / temperature)
    order = np.argsort(-scaled)
    share = scaled[order] / scaled.sum()
    kept = np.cumsum(share) - share < top_p
    return int(draw.choice(order[kept], p=share[kept] / share[kept].sum()))


def handler(doors: Mapping[str, Callable[[dict[str, Any]], Any]]) -> type[BaseHTTPRequestHandler]:
    """Answers POSTs of JSON by path; what the model refuses is a 400 with the reason."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, said = 200, doors[self.path](json.loads(body))
            except (RuntimeError, ValueError, LookupError, TypeError) as error:
                status, said = 400, {"error": f"{type(error).__name__}: {error}"}
            answer = json.dumps(said, default=float).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def main() -> None:
    """Serve until the process is ended."""
    asked = json.loads(sys.argv[1])
    runner = Runner(asked["folder"], asked["context"], asked["threads"])
    doors = {
        "/complete": runner.complete,
        "/next": runner.next,
        "/prompt": runner.prompt,
        "/tokenize": runner.tokenize,
        "/v1/chat/completions": runner.chat,
    }
    server = HTTPServer(("127.0.0.1", 0), handler(doors))
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}) + "\n")
    sys.stdout.flush()
    os.dup2(2, 1)
    server.serve_forever()


if __name__ == "__main__":
    main()
