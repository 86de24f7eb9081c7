"""Classifiers as engines: they answer with a label.

The classifier may be a linear head on sentence vectors, trained in seconds and the baseline to
beat, or a fine-tuned model with a head.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from burnish.core.records import Message, Prompt, Row
from burnish.engines.heads.base import HeadEngine, HeadModel, filter_labels, user_text
from burnish.models.artifact import Artifact, find_base
from burnish.models.heads.classifier import load_classifier
from burnish.models.heads.embedder import Embedder
from burnish.models.heads.linear import LinearHead, load_linear_head


class Classifier(HeadModel, Protocol):
    """Computes natural log-probabilities (texts, labels) of texts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the columns."""

    def log_probs(self, texts: Sequence[str]) -> np.ndarray:
        """Return log-probabilities (texts, labels)."""


class LinearClassifier:
    """An embedding model and the linear head on top of it."""

    def __init__(self, embedder: Embedder, head: LinearHead) -> None:
        self.embedder, self.head, self.labels = embedder, head, head.labels
        self.tokenizer, self.max_tokens = embedder.tokenizer, embedder.max_tokens

    @property
    def memory_bytes(self) -> int:
        """The size in bytes of the embedding model's weights and the head."""
        weights = self.embedder.model.parameters()
        return sum(int(w.nbytes) for w in weights) + self.head.weight.nbytes

    def log_probs(self, texts: Sequence[str]) -> np.ndarray:
        """Return log-probabilities (texts, labels)."""
        return self.head.log_probs(self.embedder.encode(texts))


class ClassifierEngine(HeadEngine):
    """A classifier asked like any model: it answers with the likeliest label."""

    description = "a classifier: it answers chat messages with a label"

    def __init__(self, classifier: Classifier, name: str, system: str | None = None) -> None:
        super().__init__(classifier, name, system)
        self.classifier = classifier

    def allowed_labels(self, choices: Sequence[str]) -> tuple[str, ...]:
        """Return the choices that it was trained with; all labels if there are no choices."""
        return filter_labels(self.name, self.classifier.labels, choices)

    def predict(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the likeliest of each prompt's choices."""
        logs = self._log_probs([prompt.messages for prompt in prompts])
        return [
            self._likeliest_label(row, prompt.choices)
            for row, prompt in zip(logs, prompts, strict=True)
        ]

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """Return, per row, the log-probability (nats) of its label, which counts as one token."""
        logs = self._log_probs([row.prompt for row in rows])
        columns = {label: column for column, label in enumerate(self.classifier.labels)}
        return [
            (float(row_logs[columns[row.answer]]) if row.answer in columns else -math.inf, 1)
            for row_logs, row in zip(logs, rows, strict=True)
        ]

    def _log_probs(self, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
        return self.classifier.log_probs([user_text(messages) for messages in conversations])

    def _likeliest_label(self, logs: np.ndarray, choices: Sequence[str]) -> str:
        return max(
            self.allowed_labels(choices),
            key=lambda label: logs[self.classifier.labels.index(label)],
        )


def open_linear(artifact: Artifact) -> ClassifierEngine:
    """Open a linear classifier. Raises NotFound or BadData without its embedding model."""
    embedder = Embedder(find_base(artifact))
    return _make_engine(LinearClassifier(embedder, load_linear_head(artifact)), artifact)


def open_classifier(artifact: Artifact) -> ClassifierEngine:
    """Open a model with a classification head. Raises NotFound or BadData without the base of an
    adapter."""
    return _make_engine(load_classifier(artifact), artifact)


def _make_engine(classifier: Classifier, artifact: Artifact) -> ClassifierEngine:
    name = str(artifact.lineage.get("run", artifact.path.name))
    return ClassifierEngine(classifier, name, artifact.system)
