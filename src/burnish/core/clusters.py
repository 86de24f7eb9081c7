"""Clusters of dependent questions: turns of one conversation, tickets of one customer.

They are easy or hard together, so that ten of one customer are less informative than ten of ten.
The clusters are the sampling units: intervals and tests are taken over them (for language models:
Miller 2024, arXiv:2411.00640). A cluster is a number per question; clusters may have any sizes, so
their sums are resampled (`core.resampling`), never their means.
"""

from collections.abc import Sequence

import numpy as np

from burnish.core.resampling import typical_size

#: With fewer effective clusters than this, chance alone decides any measurement.
FEW = 5.0


def is_clustered(clusters: Sequence[int]) -> bool:
    """Return whether two questions share a cluster."""
    return len(set(clusters)) < len(clusters)


def cluster_sums(
    values: Sequence[float] | np.ndarray, clusters: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the values in each cluster, and the cluster sizes; each value is a cluster
    of its own unless some share one."""
    values = np.asarray(values, dtype=float)
    if not is_clustered(clusters):
        return values, np.ones(len(values), dtype=int)
    indices = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(indices, values), np.bincount(indices)


def effective_number(clusters: Sequence[int]) -> float:
    """Return the number of equal clusters that would be as informative, (Σn)²/Σn² (Kish 1965); 0
    for none."""
    sizes = np.unique(np.asarray(clusters), return_counts=True)[1]
    return float(sizes.sum()) / typical_size(sizes) if len(sizes) else 0.0
