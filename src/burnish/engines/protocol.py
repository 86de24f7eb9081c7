"""The protocol of engines: they answer prompts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from burnish.core.records import Answer, Message, Prompt, Row
from burnish.engines.local.decoding import Batch, GenerationRequest, Prefix


class Engine(Protocol):
    """Answers prompts. Local models, servers and remote endpoints share this interface."""

    @property
    def name(self) -> str:
        """The name shown to users."""

    @property
    def context_length(self) -> int:
        """The maximum of prompt tokens and answer tokens together."""

    @property
    def memory_bytes(self) -> int:
        """The size of the weights in bytes."""

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Return one answer per prompt, in order; `advance(n)` is called when n more are done.

        Raises PromptTooLong for a prompt that doesn't fit the context.
        """

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a prompt, rendered."""

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """Return, per row, the log-probability (nats) of its answer and the answer's token
        count."""


class BatchedEngine(Engine, Protocol):
    """An engine whose requests the scheduler decodes in batches."""

    #: The system prompt of its training, for conversations without one.
    system: str | None
    #: The tokens that end an answer.
    ends: frozenset[int]

    @property
    def batch_key(self) -> int:
        """Engines with the same key may share a batch."""

    def new_batch(self) -> Batch:
        """Return an empty batch for requests of engines with this key."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of its prompts."""

    @property
    def vocabulary(self) -> int:
        """The number of tokens of the vocabulary."""

    def active(self) -> AbstractContextManager[None]:
        """Activate its own weights within the block."""

    def build_request(self, prompt: Prompt) -> GenerationRequest:
        """Encode a prompt. Raises PromptTooLong, BadData."""

    def build_request_from_ids(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """Build a request from a prompt and its tokens. Raises PromptTooLong, BadData."""

    def choose(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Answer requests that have choices, each with one of them. Call it while `active`."""

    def read_prefix(self, ids: Sequence[int], begin: Prefix | None = None) -> Prefix | None:
        """Compute a common prefix of prompts, to be passed to `choose` and to a batch; None if
        prompts cannot begin with it. Call it while `active`."""
