"""Clients that ask an exported artifact through a real HTTP server in a child process.

Messages are sent as by any client; the server renders and encodes them itself.
"""

import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from transformers import AutoTokenizer

from burnish.core.reasoning import join_reasoning, split_reasoning
from burnish.core.records import Prompt
from burnish.engines.external.base import DEFAULT_LAUNCH, LaunchOptions, LogprobEngine
from burnish.engines.external.process import EngineProcess
from burnish.engines.registry import EXTERNAL_ENGINES
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_prompt, encode_text


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """A response: text, completeness, prompt and answer tokens, seconds."""

    text: str
    complete: bool
    tokens_in: int
    tokens_out: int
    seconds: float

    @property
    def answer_text(self) -> str:
        """The text without the reasoning before it."""
        return split_reasoning(self.text)[1]


class ServedModel(Protocol):
    """An artifact behind the server that will serve it."""

    process: EngineProcess
    #: Concurrent requests.
    concurrency: int

    def ask(self, prompt: Prompt) -> ServedAnswer:
        """Return one greedy answer; with `prompt.choices`, exactly one of these."""

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens that the model is given for a prompt."""

    def text_tokens(self, text: str) -> list[int]:
        """Return the tokens of plain text."""

    def close(self) -> None:
        """End the server."""


class ServedByBurnish:
    """`burnish serve FOLDER` in a temporary workspace."""

    concurrency = 8

    def __init__(self, artifact: Artifact, threads: int = 0) -> None:
        """Start the server. Raises EngineFailed if it doesn't come up."""
        self.tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
        self._key, port = secrets.token_hex(16), find_free_port()
        # In the user's workspace a worker would start the jobs waiting there.
        self._home = tempfile.TemporaryDirectory()
        self.process = EngineProcess(
            "burnish serve",
            ["burnish", "-q", "serve", str(artifact.path.absolute()), "--port", str(port)],
            f"http://127.0.0.1:{port}",
            {
                "BURNISH_HOME": self._home.name,
                "BURNISH_API_KEY": self._key,
                **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            },
        )
        self._model = self.process.ask("/v1/models", key=self._key)["data"][0]["id"]

    def ask(self, prompt: Prompt) -> ServedAnswer:
        """Return one greedy answer; with `prompt.choices`, exactly one of these."""
        constraint = {"guided_choice": list(prompt.choices)} if prompt.choices else {}
        body = {"model": self._model, **_chat_body(prompt), **constraint}
        return _ask_chat(self.process, body, self._key)

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens of the folder's template and tokenizer, which the server uses."""
        return encode_prompt(self.tokenizer, prompt.messages, prompt.tools)

    def text_tokens(self, text: str) -> list[int]:
        """Return the tokens of the folder's own tokenizer."""
        return encode_text(self.tokenizer, text)

    def close(self) -> None:
        """End the server."""
        self.process.close()
        self._home.cleanup()


class _ServedByEngine:
    """One of our engines in a child process, asked through the child's own server."""

    concurrency = 1

    def __init__(self, engine: LogprobEngine) -> None:
        self._engine, self.process = engine, engine.child

    def ask(self, prompt: Prompt) -> ServedAnswer:
        """Ask as a client does; choices are scored by our engine, as these servers can't."""
        if not prompt.choices:
            return _ask_chat(self.process, _chat_body(prompt))
        answer = self._engine.answer([prompt])[0]
        return ServedAnswer(answer.text, True, answer.tokens_in, answer.tokens_out, answer.seconds)

    def close(self) -> None:
        """End the child."""
        self._engine.close()


class ServedByLlamaCpp(_ServedByEngine):
    """llama.cpp's own server, with the file's own template and tokenizer."""

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens that llama.cpp renders, including those it adds itself."""
        rendered = self.process.ask("/apply-template", _chat_body(prompt))["prompt"]
        return self._tokens(rendered, add_special=True)

    def text_tokens(self, text: str) -> list[int]:
        """Return llama.cpp's tokens."""
        return self._tokens(text, add_special=False)

    def _tokens(self, text: str, add_special: bool) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return list(self.process.ask("/tokenize", body)["tokens"])


class ServedByStepwise(_ServedByEngine):
    """ORT-GenAI or OpenVINO in a child process, with the folder's template and tokenizer as it
    applies them."""

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens that the engine renders and encodes."""
        return list(self.process.ask("/prompt", _chat_body(prompt)))

    def text_tokens(self, text: str) -> list[int]:
        """Return the engine's tokens."""
        return list(self.process.ask("/tokenize", {"content": text}))


#: Kind of artifact → the client of its engine.
_SERVED_BY_KIND: Mapping[str, Callable[[LogprobEngine], ServedModel]] = {
    "gguf": ServedByLlamaCpp,
    "onnx": ServedByStepwise,
    "openvino": ServedByStepwise,
}


def open_served_model(artifact: Artifact, running: LaunchOptions = DEFAULT_LAUNCH) -> ServedModel:
    """Start the server of an exported artifact with the options `running`.

    burnish's own server uses the threads only. Raises Unavailable, EngineFailed.
    """
    if artifact.kind in _SERVED_BY_KIND:
        return _SERVED_BY_KIND[artifact.kind](EXTERNAL_ENGINES[artifact.kind](artifact, running))
    return ServedByBurnish(artifact, running.threads)


def without_choices(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts without their choices."""
    return [replace(prompt, choices=()) for prompt in prompts]


def _chat_body(prompt: Prompt) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [message.as_wire() for message in prompt.messages],
        "max_tokens": prompt.max_new_tokens,
        "temperature": 0,
    }
    return {**body, "tools": [dict(tool) for tool in prompt.tools]} if prompt.tools else body


def _ask_chat(
    child: EngineProcess, body: Mapping[str, Any], key: str | None = None
) -> ServedAnswer:
    begun = time.perf_counter()
    response = child.ask("/v1/chat/completions", body, key)
    choice, usage = response["choices"][0], response["usage"]
    message = choice["message"]
    return ServedAnswer(
        text=join_reasoning(message.get("reasoning_content") or "", message["content"] or ""),
        complete=choice["finish_reason"] != "length",
        tokens_in=usage["prompt_tokens"],
        tokens_out=usage["completion_tokens"],
        seconds=time.perf_counter() - begun,
    )


def find_free_port() -> int:
    """Return a port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
