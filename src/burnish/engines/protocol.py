"""What an engine is: whatever answers prompts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from burnish.core.records import Answer, Message, Prompt, Row
from burnish.engines.local.decoding import Batch, GenerationRequest, Prefix


class Engine(Protocol):
    """Answers prompts. Local models, servers and remote endpoints look the same from above."""

    @property
    def name(self) -> str:
        """How people call it."""

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""

    @property
    def memory_bytes(self) -> int:
        """Bytes that its weights take."""

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """One answer a prompt, in order; `advance(n)` is called when n more are done.

        Raises PromptTooLong for a prompt that doesn't fit the context.
        """

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt as it would be asked."""

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """For each row, the log-probability (nats) of its answer, and the answer's tokens."""


class BatchedEngine(Engine, Protocol):
    """An engine whose requests the scheduler answers in turns."""

    #: The prompt of its training, for who brings none.
    system: str | None
    #: The tokens that end an answer.
    ends: frozenset[int]

    @property
    def batch_key(self) -> int:
        """Engines with the same key may have requests in one batch."""

    def new_batch(self) -> Batch:
        """An empty batch for its requests, and those of engines with the same key."""

    @property
    def tokenizer(self) -> Any:
        """What encodes its prompts."""

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""

    def active(self) -> AbstractContextManager[None]:
        """Its own weights, for as long as it answers."""

    def build_request(self, prompt: Prompt) -> GenerationRequest:
        """A prompt as tokens. Raises PromptTooLong, BadData."""

    def build_request_from_ids(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """A prompt with its tokens. Raises PromptTooLong, BadData."""

    def choose(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Answer requests that have choices, each with one of them. Call it while `active`."""

    def read_prefix(self, ids: Sequence[int], begin: Prefix | None = None) -> Prefix | None:
        """A beginning of prompts, computed, to be given to `choose` and to a batch; None if prompts
        cannot begin so. Call it while `active`."""
