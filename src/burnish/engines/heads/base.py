"""What models with a head have in common as engines: they are asked like any model, and no text is
made."""

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
        """How it reads."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that count, or that are read at once."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""


class HeadEngine(ABC):
    """A model with a head that is asked like any model."""

    #: What it is and what it answers with, for an error's words.
    description: str
    #: No token ends an answer, which is one of the labels.
    ends: frozenset[int] = frozenset()

    def __init__(self, headed: HeadModel, name: str, system: str | None = None) -> None:
        self.headed, self.name, self.system = headed, name, system

    @abstractmethod
    def allowed_labels(self, choices: Sequence[str]) -> tuple[str, ...]:
        """Those of the choices that it was trained with; all labels if there are no choices.

        Raises BadData if it was trained with none of them.
        """

    @abstractmethod
    def predict(self, prompts: Sequence[Prompt]) -> list[str]:
        """The answers."""

    @abstractmethod
    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """For each row, the log-probability (nats) of its answer, and what counts as its tokens."""

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.headed.tokenizer

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return len(self.tokenizer)

    @property
    def context_length(self) -> int:
        """Tokens of a question that count, or that are read at once."""
        return self.headed.max_tokens

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        return self.headed.memory_bytes

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """What the head says of each prompt, among its choices, or all labels if it names none.

        Raises BadData if the choices are not among the labels that it was trained with.
        """
        answers: list[Answer] = []
        for begin in range(0, len(prompts), batch_size):
            some, begun = prompts[begin : begin + batch_size], time.perf_counter()
            texts = self.predict(some)
            seconds = (time.perf_counter() - begun) / len(some)
            answers += [
                Answer(text, self.count_tokens(prompt.messages), 0, seconds)
                for text, prompt in zip(texts, some, strict=True)
            ]
            if advance:
                advance(len(some))
        return answers

    def active(self) -> AbstractContextManager[None]:
        """Nobody shares its weights."""
        return nullcontext()

    @property
    def batch_key(self) -> int:
        """Nobody shares its weights."""
        return id(self)

    def new_batch(self) -> Batch:
        """A batch that stays empty: there is nothing to step with."""
        return DecodingBatch(None)

    def build_request(self, prompt: Prompt) -> GenerationRequest:
        """A request among its labels. Raises BadData for plain text, which asks for more words."""
        ids = self.tokenizer(user_text(prompt.messages), add_special_tokens=False)["input_ids"]
        return self.build_request_from_ids(prompt, ids)

    def build_request_from_ids(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """A request among its labels, so that it is answered by `choose`.

        Raises BadData for plain text, which asks for more words, and for labels that it lacks.
        """
        if not prompt.messages:
            raise BadData(f"{self.name} is {self.description}.", "Ask it at /chat/completions.")
        bound = replace(prompt, choices=self.allowed_labels(prompt.choices))
        return GenerationRequest(bound, ids, self.ends, self.tokenizer)

    def choose(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Answer each request."""
        answers = self.answer([request.prompt for request in requests])
        for request, answer in zip(requests, answers, strict=True):
            request.text, request.finish = answer.text, "stop"

    def read_prefix(self, ids: Sequence[int], begin: Prefix | None = None) -> Prefix | None:
        """No beginning could be shared: a head looks at the whole."""
        return None

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a question, without special ones, up to those that are read at once."""
        ids = self.tokenizer(user_text(messages), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return min(len(ids), self.context_length)


def filter_labels(name: str, labels: Sequence[str], choices: Sequence[str]) -> tuple[str, ...]:
    """The labels that are among the choices, or all if there are none. Raises BadData if no label
    is."""
    known = tuple(label for label in labels if not choices or label in choices)
    if not known:
        raise BadData(
            f"{name} knows none of the labels asked for.",
            f"It was trained with: {', '.join(labels)}.",
        )
    return known


def user_text(messages: Sequence[Message]) -> str:
    """What is classified: all that the user says."""
    return "\n".join(turn.content for turn in messages if turn.role == "user")
