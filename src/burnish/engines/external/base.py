"""Base classes of engines outside this process, which are sent our own tokens.

Prompts are rendered and encoded by `models.chat_template`, as in training. The other end is a child
process (`LogprobEngine`) or a remote server (`engines.remote.upstream`).
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar, Protocol

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import PromptTooLong
from burnish.core.records import Answer, Message, Prompt, Row
from burnish.engines.external.process import EngineProcess
from burnish.engines.local.choices import (
    LogprobTable,
    build_choice_tree,
    encode_choices,
    find_likeliest,
)
from burnish.engines.local.decoding import GenerationRequest
from burnish.models.chat_template import encode_prompt, encode_row, end_of_turn


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How a child process is started.

    Zero means defaults: one thread per core; the model's own context, but at most 4096 tokens.
    `slots` is the number of concurrent requests, each with a context of its own, and `cache` the
    type of keys and values; both apply to llama.cpp only.
    """

    threads: int = 0
    context: int = 0
    slots: int = 1
    cache: str = "f16"


DEFAULT_LAUNCH = LaunchOptions()


class EngineConnection(Protocol):
    """The connection to the process or server that answers."""

    name: str

    @property
    def alive(self) -> bool:
        """False for a child process that has exited."""

    def close(self) -> None:
        """End the process, or close the connections."""


class ExternalEngine(ABC):
    """An engine whose `child` answers; `close` ends it."""

    #: Whether answers can be constrained to a grammar.
    supports_grammars: ClassVar[bool] = False
    child: EngineConnection
    #: The maximum of prompt tokens and answer tokens together.
    context_length: int
    #: The number of tokens of the vocabulary.
    vocabulary: int

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        system: str | None,
        launch_options: LaunchOptions,
    ) -> None:
        """Set what is known before the process or server is there."""
        self.name, self.tokenizer, self.system, self.launch_options = (
            name,
            tokenizer,
            system,
            launch_options,
        )
        self.ends = end_of_turn(tokenizer)
        #: Concurrent requests.
        self.slots = 1

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """The size of the weights in bytes."""

    @abstractmethod
    def choose(self, request: GenerationRequest) -> None:
        """Answer with exactly one of a request's choices."""

    @abstractmethod
    def ensure_alive(self) -> None:
        """Do what must precede a request. Raises EngineFailed."""

    @abstractmethod
    def generate(self, request: GenerationRequest) -> Generator[None]:
        """Generate a free answer, with a pause after each piece, until it is finished.

        Closing the generator stops the work. Raises EngineFailed.
        """

    def close(self) -> None:
        """End the child process."""
        self.child.close()

    def build_request(self, prompt: Prompt) -> GenerationRequest:
        """Encode a prompt. Raises PromptTooLong if it and its answer don't fit the context."""
        return self.build_request_from_ids(
            prompt, encode_prompt(self.tokenizer, prompt.messages, prompt.tools)
        )

    def build_request_from_ids(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """Build a request from a prompt and its tokens. Raises PromptTooLong."""
        if len(ids) + prompt.max_new_tokens > self.context_length:
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens and asks for up to {prompt.max_new_tokens} "
                f"more; the engine's context holds {self.context_length}.",
                "Shorten the prompt, or ask for a shorter answer.",
            )
        return GenerationRequest(prompt, ids, self.ends, self.tokenizer)

    def answer_request(self, request: GenerationRequest) -> Generator[None]:
        """Answer a request, with a pause after each piece of text."""
        if request.prompt.choices:
            self.choose(request)
            yield
            return
        with closing(self.generate(request)) as growing:
            for _ in growing:
                yield
                if request.finish:
                    return

    def stream(self, prompt: Prompt) -> Iterator[str]:
        """Yield the pieces of one answer as they are generated."""
        request, shown = self.build_request(prompt), 0
        with closing(self.answer_request(request)) as pieces:
            for _ in pieces:
                ready = request.visible_text()
                if len(ready) > shown:
                    yield ready[shown:]
                    shown = len(ready)

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Answer prompts one after the other. Raises PromptTooLong, EngineFailed."""
        answers = []
        for prompt in prompts:
            begun = time.perf_counter()
            request = self.build_request(prompt)
            for _ in self.answer_request(request):
                pass
            request.seconds = time.perf_counter() - begun
            answers.append(request.answer())
            if advance:
                advance(1)
        return answers

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a prompt, rendered."""
        return len(encode_prompt(self.tokenizer, messages))


class LogprobEngine(ExternalEngine):
    """An engine in a child process that reports log-probabilities of tokens."""

    child: EngineProcess

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        system: str | None,
        launch_options: LaunchOptions,
    ) -> None:
        """Set what is known before the child is there; subclasses start it."""
        super().__init__(name, tokenizer, system, launch_options)
        #: Number of restarts of the child.
        self.restarts = 0
        self._reviving = threading.Lock()

    @abstractmethod
    def start_process(self) -> EngineProcess:
        """Start a child that has the model in memory. Raises EngineFailed."""

    @abstractmethod
    def logprob_table(
        self, ids: Sequence[int], wanted: Sequence[int], ahead: int = 1, owner: str = ""
    ) -> LogprobTable:
        """Return log-probabilities behind the tokens `ids`; `wanted` are the tokens that will be
        looked up, and an answer has up to `ahead` of them. Nothing of another owner's prompts is
        reused."""

    def ensure_alive(self) -> None:
        """Restart the child if it has exited. Raises EngineFailed."""
        with self._reviving:
            if not self.child.alive:
                self.child = self.start_process()
                self.restarts += 1

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """Return, per row, the log-probability (nats) of its answer and the answer's token
        count."""
        results = []
        for row in rows:
            encoded = encode_row(self.tokenizer, row, self.context_length)
            targets = [position for position, weight in enumerate(encoded.weights) if weight > 0]
            first = targets[0]
            table = self.logprob_table(
                encoded.ids[:first], sorted({encoded.ids[p] for p in targets})
            )
            logs = [
                _look_up_logprob(table, encoded.ids[first:position], encoded.ids[position])
                for position in targets
            ]
            results.append((sum(logs), len(logs)))
        return results

    def choose(self, request: GenerationRequest) -> None:
        """Answer with the likeliest choice."""
        choices = request.prompt.choices
        texts = encode_choices(self.tokenizer, self.ends, choices, request.answer_prefix)
        wanted = sorted({token for text in texts for token in text})
        table = self.logprob_table(request.ids, wanted, max(map(len, texts)), request.owner)
        chosen = find_likeliest(build_choice_tree(texts), table)
        request.text, request.token_ids = choices[chosen], texts[chosen][:-1]
        request.finish = "stop"


def _look_up_logprob(table: LogprobTable, behind: Sequence[int], token: int) -> float:
    """Return the log-probability of `token` behind the prompt and the tokens `behind`."""
    logs, _ = table.top_logprobs(tuple(behind))
    return logs[token] if token in logs else table.all_logprobs(tuple(behind))[token]
