"""A linear classifier on sentence vectors as a folder: an artifact of kind `linear`.

artifact/head.safetensors   weight (labels, width) and bias (labels,), float32
artifact/artifact.json      labels, the embedding model with its hash, lineage; written last
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from burnish.core.atomic import atomic_folder, hash_file, write_json
from burnish.models.artifact import Artifact, open_artifact
from burnish.models.local_models import ARTIFACT_FILE, LocalModel

_HEAD = "head.safetensors"


@dataclass(frozen=True, slots=True)
class LinearHead:
    """Labels and weights: `vectors @ weight.T + bias` are the logits."""

    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray

    def log_probs(self, vectors: np.ndarray) -> np.ndarray:
        """Return log-probabilities (texts, labels) of vectors (texts, width)."""
        scores = vectors @ self.weight.T + self.bias
        scores -= scores.max(1, keepdims=True)
        logs: np.ndarray = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        return logs


def save_linear(
    folder: Path, head: LinearHead, embedder: LocalModel, lineage: Mapping[str, Any]
) -> Artifact:
    """Write a classifier atomically; an older one in its place is replaced."""
    with atomic_folder(folder, replace=True) as draft:
        # safetensors ignores strides, and scikit-learn's matrices are transposed.
        parts = {"weight": head.weight, "bias": head.bias}
        save_file({name: np.ascontiguousarray(p) for name, p in parts.items()}, draft / _HEAD)
        facts = {
            "kind": "linear",
            "base": embedder.identity,
            "labels": list(head.labels),
            **lineage,
            "files": {_HEAD: hash_file(draft / _HEAD)},
        }
        write_json(draft / ARTIFACT_FILE, facts)
    return open_artifact(folder)


def load_linear_head(artifact: Artifact) -> LinearHead:
    """Load the weights of a classifier whose files `open_artifact` has checked."""
    tensors = load_file(artifact.path / _HEAD)
    return LinearHead(tuple(artifact.lineage["labels"]), tensors["weight"], tensors["bias"])
