"""What engines outside this process have in common: they are asked with our own tokens.

Prompts are rendered and encoded by `models.chat`, as the model was trained. Whoever answers is a
child of ours (`TellingEngine`), or a server elsewhere (`engines.upstream`).
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
    """How a child is started. Zero means: as many threads as cores; the model's own context, but
    not more than 4096 tokens. `slots` is how many requests are answered at once, each with a
    context of its own, and `cache` the type of keys and values; both are llama.cpp's only."""

    threads: int = 0
    context: int = 0
    slots: int = 1
    cache: str = "f16"


DEFAULT_LAUNCH = LaunchOptions()


class EngineConnection(Protocol):
    """Who answers outside this process."""

    name: str

    @property
    def alive(self) -> bool:
        """False for a process of ours that has ended."""

    def close(self) -> None:
        """End it, or the connections to it."""


class ExternalEngine(ABC):
    """An engine whose `child` answers; `close` ends it."""

    #: Whether an answer can be held to a grammar.
    supports_grammars: ClassVar[bool] = False
    child: EngineConnection
    #: Tokens that prompt and answer may have together.
    context_length: int
    #: How many tokens it knows.
    vocabulary: int

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        system: str | None,
        running: LaunchOptions,
    ) -> None:
        """What can be said before anybody is there who answers."""
        self.name, self.tokenizer, self.system, self.launch_options = (
            name,
            tokenizer,
            system,
            running,
        )
        self.ends = end_of_turn(tokenizer)
        #: Requests that are answered at once.
        self.slots = 1

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Bytes of the weights."""

    @abstractmethod
    def choose(self, request: GenerationRequest) -> None:
        """Exactly one of a request's choices."""

    @abstractmethod
    def ensure_alive(self) -> None:
        """Whatever is to be done before a request. Raises EngineFailed."""

    @abstractmethod
    def generate(self, request: GenerationRequest) -> Generator[None]:
        """Let a free answer grow, with a pause after each piece; at last it is finished.

        Closing it ends the work. Raises EngineFailed.
        """

    def close(self) -> None:
        """End the child."""
        self.child.close()

    def build_request(self, prompt: Prompt) -> GenerationRequest:
        """A prompt as tokens. Raises PromptTooLong if it and its answer don't fit the context."""
        return self.build_request_from_ids(
            prompt, encode_prompt(self.tokenizer, prompt.messages, prompt.tools)
        )

    def build_request_from_ids(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """The same for tokens that are there already."""
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
        """The pieces of one answer as they are made."""
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
        """One answer a prompt, one after the other. Raises PromptTooLong, EngineFailed."""
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
        """Tokens of a prompt as it would be asked."""
        return len(encode_prompt(self.tokenizer, messages))


class LogprobEngine(ExternalEngine):
    """An engine in a process of its own, which tells log-probabilities of tokens."""

    child: EngineProcess

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        system: str | None,
        running: LaunchOptions,
    ) -> None:
        """Only what can be said before the child is there; whoever inherits starts it."""
        super().__init__(name, tokenizer, system, running)
        #: How often the child had to be started again.
        self.restarts = 0
        self._reviving = threading.Lock()

    @abstractmethod
    def start_process(self) -> EngineProcess:
        """A child that has the model in memory. Raises EngineFailed."""

    @abstractmethod
    def logprob_table(
        self, ids: Sequence[int], wanted: Sequence[int], ahead: int = 1, owner: str = ""
    ) -> LogprobTable:
        """Log-probabilities behind the tokens `ids`; `wanted` are those that will be asked for,
        and an answer has up to `ahead` of them. Nothing of another owner's prompts is reused."""

    def ensure_alive(self) -> None:
        """Start the child again if it has ended. Raises EngineFailed."""
        with self._reviving:
            if not self.child.alive:
                self.child = self.start_process()
                self.restarts += 1

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """For each row, the log-probability (nats) of its answer, and the answer's tokens."""
        found = []
        for row in rows:
            encoded = encode_row(self.tokenizer, row, self.context_length)
            learnt = [place for place, weight in enumerate(encoded.weights) if weight > 0]
            first = learnt[0]
            table = self.logprob_table(
                encoded.ids[:first], sorted({encoded.ids[p] for p in learnt})
            )
            logs = [
                _look_up_logprob(table, encoded.ids[first:place], encoded.ids[place])
                for place in learnt
            ]
            found.append((sum(logs), len(logs)))
        return found

    def choose(self, request: GenerationRequest) -> None:
        """The likeliest one."""
        choices = request.prompt.choices
        texts = encode_choices(self.tokenizer, self.ends, choices, request.answer_prefix)
        wanted = sorted({token for text in texts for token in text})
        table = self.logprob_table(request.ids, wanted, max(map(len, texts)), request.owner)
        chosen = find_likeliest(build_choice_tree(texts), table)
        request.text, request.token_ids = choices[chosen], texts[chosen][:-1]
        request.finish = "stop"


def _look_up_logprob(table: LogprobTable, behind: Sequence[int], token: int) -> float:
    """The log-probability of `token` behind the prompt and the tokens `behind`."""
    logs, _ = table.top_logprobs(tuple(behind))
    return logs[token] if token in logs else table.all_logprobs(tuple(behind))[token]
