"""Labels chosen by a classifier: no text is made.

The classifier may be a matrix on a sentence's vector, trained in seconds and the rival to beat, or
a fine-tuned model with a head.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from burnish.core.errors import BadData
from burnish.core.records import Answer, Message, Prompt, Row
from burnish.engines.decode import Prefix, Request
from burnish.models.artifact import Artifact, find_base
from burnish.models.classifier import load_classifier
from burnish.models.embedder import Embedder
from burnish.models.linear import Head, load_head


class Classifier(Protocol):
    """Texts to log-probabilities (texts, labels), natural."""

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the columns."""

    @property
    def tokenizer(self) -> Any:
        """How it reads."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that count."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""

    def log_probs(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, labels)."""


class LinearClassifier:
    """An embedding model and the matrix on top of it."""

    def __init__(self, embedder: Embedder, head: Head) -> None:
        self.embedder, self.head, self.labels = embedder, head, head.labels
        self.tokenizer, self.max_tokens = embedder.tokenizer, embedder.max_tokens

    @property
    def memory_bytes(self) -> int:
        """Bytes of the embedding model's weights and the matrix."""
        weights = self.embedder.model.parameters()
        return sum(int(w.nbytes) for w in weights) + self.head.weight.nbytes

    def log_probs(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, labels)."""
        return self.head.log_probs(self.embedder.encode(texts))


class LabelEngine:
    """A classifier that is asked like any model."""

    #: There is nothing to step with.
    model: Any = None

    def __init__(self, classifier: Classifier, name: str, system: str | None = None) -> None:
        self.classifier, self.name, self.system = classifier, name, system

    @property
    def tokenizer(self) -> Any:
        """The classifier's."""
        return self.classifier.tokenizer

    @property
    def vocabulary(self) -> int:
        """How many tokens the classifier knows."""
        return len(self.tokenizer)

    @property
    def context_length(self) -> int:
        """Tokens of a question that count; what is behind them isn't read."""
        return self.classifier.max_tokens

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        return self.classifier.memory_bytes

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """The likeliest of each prompt's choices, or of all labels if it names none.

        Raises BadData if the choices are not among the labels that it was trained with.
        """
        answers: list[Answer] = []
        for begin in range(0, len(prompts), batch_size):
            some, begun = prompts[begin : begin + batch_size], time.perf_counter()
            logs = self._log_probs([prompt.messages for prompt in some])
            chosen = [self._best(row, p.choices) for row, p in zip(logs, some, strict=True)]
            seconds = (time.perf_counter() - begun) / len(some)
            answers += [
                Answer(label, self.count_tokens(prompt.messages), 0, seconds)
                for label, prompt in zip(chosen, some, strict=True)
            ]
            if advance:
                advance(len(some))
        return answers

    def active(self) -> AbstractContextManager[None]:
        """Nobody shares its weights."""
        return nullcontext()

    def request(self, prompt: Prompt) -> Request:
        """A request among its labels. Raises BadData for plain text, which asks for more words."""
        ids = self.tokenizer(said(prompt.messages), add_special_tokens=False)["input_ids"]
        return self.request_for(prompt, ids)

    def request_for(self, prompt: Prompt, ids: Sequence[int]) -> Request:
        """A request among its labels.

        Raises BadData for plain text, which asks for more words, and for labels that it lacks.
        """
        if not prompt.messages:
            raise BadData(
                f"{self.name} is a classifier: it answers chat messages with a label.",
                "Ask it at /chat/completions.",
            )
        bound = replace(prompt, choices=self._known(prompt.choices))
        return Request(bound, ids, frozenset(), self.tokenizer)

    def choose(self, requests: Sequence[Request], prefix: Prefix | None = None) -> None:
        """Answer each request with one of its choices."""
        answers = self.answer([request.prompt for request in requests])
        for request, answer in zip(requests, answers, strict=True):
            request.text, request.finish = answer.text, "stop"

    def shared_prefix(self, requests: Sequence[Request]) -> Prefix | None:
        """Vectors have no beginning that could be shared."""
        return None

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a question that are read, without special ones."""
        ids = self.tokenizer(said(messages), add_special_tokens=False, verbose=False)["input_ids"]
        return min(len(ids), self.context_length)

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """For each row, the log-probability (nats) of its label, which counts as one token."""
        logs = self._log_probs([row.prompt for row in rows])
        places = {label: place for place, label in enumerate(self.classifier.labels)}
        return [
            (float(row_logs[places[row.answer]]) if row.answer in places else -math.inf, 1)
            for row_logs, row in zip(logs, rows, strict=True)
        ]

    def _log_probs(self, asked: Sequence[Sequence[Message]]) -> np.ndarray:
        return self.classifier.log_probs([said(messages) for messages in asked])

    def _best(self, logs: np.ndarray, choices: Sequence[str]) -> str:
        return max(
            self._known(choices), key=lambda label: logs[self.classifier.labels.index(label)]
        )

    def _known(self, choices: Sequence[str]) -> tuple[str, ...]:
        """Those of the choices that it was trained with; all labels if there are no choices."""
        known = tuple(label for label in self.classifier.labels if not choices or label in choices)
        if not known:
            raise BadData(
                f"{self.name} knows none of the labels asked for.",
                f"It was trained with: {', '.join(self.classifier.labels)}.",
            )
        return known


def said(messages: Sequence[Message]) -> str:
    """What is classified: all that the user says."""
    return "\n".join(turn.content for turn in messages if turn.role == "user")


def open_linear(artifact: Artifact) -> LabelEngine:
    """A linear classifier ready to answer. Raises NotFound or BadData without its embedding
    model."""
    embedder = Embedder(find_base(artifact))
    return _engine(LinearClassifier(embedder, load_head(artifact)), artifact)


def open_classifier(artifact: Artifact) -> LabelEngine:
    """A model with a classification head ready to answer. Raises NotFound or BadData without the
    base of an adapter."""
    return _engine(load_classifier(artifact), artifact)


def _engine(classifier: Classifier, artifact: Artifact) -> LabelEngine:
    name = str(artifact.lineage.get("run", artifact.path.name))
    return LabelEngine(classifier, name, artifact.system)


#: Kind of artifact → its engine.
LABELLERS: dict[str, Callable[[Artifact], LabelEngine]] = {
    "linear": open_linear,
    "classifier": open_classifier,
}
