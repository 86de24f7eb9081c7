"""A linear classifier on sentence embeddings: multinomial logistic regression, fit in seconds."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from burnish.core.errors import BadData
from burnish.core.progress import progress
from burnish.core.records import Row
from burnish.engines.heads.base import user_text
from burnish.models.heads.embedder import Embedder
from burnish.models.heads.linear import LinearHead

#: Inverse strengths of the L2 penalty to try; the validation rows decide, or the middle one is
#: taken where there are none.
_STRENGTHS = (100.0, 10.0, 1.0)


def fit_head(embedder: Embedder, train: Sequence[Row], validation: Sequence[Row]) -> LinearHead:
    """Fit the classifier that is best on the validation rows.

    Raises BadData if the training rows have fewer than two labels.
    """
    labels = tuple(sorted({row.answer for row in train}))
    if len(labels) < 2:
        raise BadData(
            f"All training rows have the label {''.join(labels)!r}; there is nothing to classify.",
            "Add rows with another label.",
        )
    with progress("Reading for the classifier", total=len(train) + len(validation)) as bar:
        vectors, validation_vectors = (
            embedder.encode(
                [user_text(row.prompt) for row in rows], advance=lambda n: bar.advance(n)
            )
            for rows in (train, validation)
        )
    answers = np.array([labels.index(row.answer) for row in train])
    strengths = _STRENGTHS if validation else _STRENGTHS[1:2]
    heads = [_fit(vectors, answers, labels, strength) for strength in strengths]
    expected = [row.answer for row in validation]
    return max(heads, key=lambda head: _count_correct(head, validation_vectors, expected))


def _fit(
    vectors: np.ndarray, answers: np.ndarray, labels: tuple[str, ...], strength: float
) -> LinearHead:
    """Return weights (labels, width). For two labels scikit-learn keeps one row, the second's
    log-odds."""
    model = LogisticRegression(C=strength, max_iter=1000).fit(vectors, answers)
    weight, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    if len(labels) == 2:
        weight = np.concatenate([np.zeros_like(weight), weight])
        bias = np.concatenate([np.zeros_like(bias), bias])
    return LinearHead(labels, weight, bias)


def _count_correct(head: LinearHead, vectors: np.ndarray, expected: Sequence[str]) -> int:
    chosen = head.log_probs(vectors).argmax(1) if len(expected) else []
    return sum(head.labels[one] == label for one, label in zip(chosen, expected, strict=True))
