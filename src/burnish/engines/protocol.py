"""What an engine is: whatever answers prompts."""

from collections.abc import Callable, Sequence
from typing import Protocol

from burnish.core.records import Answer, Message, Prompt, Row


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
