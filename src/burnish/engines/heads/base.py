"""Base class of engines for models with a head: asked like any model, they generate no text."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from burnish.core.errors import BadData
from burnish.core.records import Answer, Message, Prompt, Row
from burnish.engines.local.decoding import Batch, DecodingBatch, GenerationRequest, Prefix


class HeadModel(Protocol):
    """A model with a head."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are used, or that are read at once."""

    @property
    def memory_bytes(self) -> int:
        """The size of the weights in bytes."""


class HeadEngine(ABC):
    """A model with a head, asked like any model."""

    #: What it is and what it answers with, for error messages.
    description: str
    #: No token ends an answer, which is one of the labels.
    ends: frozenset[int] = frozenset()

    def __init__(self, headed: HeadModel, name: str, system: str | None = None) -> None:
        self.headed, self.name, self.system = headed, name, system

    @abstractmethod
    def allowed_labels(self, choices: Sequence[str]) -> tuple[str, ...]:
        """Return the choices that it was trained with; all labels if there are no choices.

        Raises BadData if it was trained with none of them.
        """

    @abstractmethod
    def predict(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the answers."""

    @abstractmethod
    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """Return, per row, the log-probability (nats) of its answer and what counts as its
        tokens."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.headed.tokenizer

    @property
    def vocabulary(self) -> int:
        """The number of tokens of the vocabulary."""
        return len(self.tokenizer)

    @property
    def context_length(self) -> int:
        """Tokens of a question that are used, or that are read at once."""
        return self.headed.max_tokens

    @property
    def memory_bytes(self) -> int:
        """The size of the weights in bytes."""
        return self.headed.memory_bytes

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Return the head's answer per prompt, among its choices, or all labels if it has none.

        Raises BadData if the choices are not among the labels that it was trained with.
        """
        answers: list[Answer] = []
        for begin in range(0, len(prompts), batch_size):
            batch, begun = prompts[begin : begin + batch_size], time.perf_counter()
            texts = self.predict(batch)
            seconds = (time.perf_counter() - begun) / len(batch)
            answers += [
                Answer(text, self.count_tokens(prompt.messages), 0, seconds)
                for text, prompt in zip(texts, batch, strict=True)
            ]
            if advance:
                advance(len(batch))
        return answers

    def active(self) -> AbstractContextManager[None]:
        """Do nothing: its weights are not shared."""
        return nullcontext()

    @property
    def batch_key(self) -> int:
        """Its own key: its weights are not shared."""
        return id(self)

    def new_batch(self) -> Batch:
        """Return a batch that stays empty: nothing is decoded."""
        return DecodingBatch(None)

    def build_request(self, prompt: Prompt) -> GenerationRequest:
        """Build a request for a label. Raises BadData for a plain-text completion."""
        ids = self.tokenizer(user_text(prompt.messages), add_special_tokens=False)["input_ids"]
        return self.build_request_from_ids(prompt, ids)

    def build_request_from_ids(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """Build a request with its labels as choices, so that `choose` answers it.

        Raises BadData for a plain-text completion, and for labels that it wasn't trained with.
        """
        if not prompt.messages:
            raise BadData(f"{self.name} is {self.description}.", "Ask it at /chat/completions.")
        constrained = replace(prompt, choices=self.allowed_labels(prompt.choices))
        return GenerationRequest(constrained, ids, self.ends, self.tokenizer)

    def choose(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Answer each request."""
        answers = self.answer([request.prompt for request in requests])
        for request, answer in zip(requests, answers, strict=True):
            request.text, request.finish = answer.text, "stop"

    def read_prefix(self, ids: Sequence[int], begin: Prefix | None = None) -> Prefix | None:
        """Return None: a head reads the whole text, so no prefix can be shared."""
        return None

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a question, without special ones, up to
        `context_length`."""
        ids = self.tokenizer(user_text(messages), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return min(len(ids), self.context_length)


def filter_labels(name: str, labels: Sequence[str], choices: Sequence[str]) -> tuple[str, ...]:
    """Return the labels that are among the choices, or all without choices. Raises BadData if there
    is none."""
    known = tuple(label for label in labels if not choices or label in choices)
    if not known:
        raise BadData(
            f"{name} has none of the requested labels.",
            f"It was trained with: {', '.join(labels)}.",
        )
    return known


def user_text(messages: Sequence[Message]) -> str:
    """Return the text to classify: all user messages."""
    return "\n".join(turn.content for turn in messages if turn.role == "user")
