"""Questions that hang together: turns of one conversation, tickets of one customer.

They are easy or hard together, so that ten of one customer tell less than ten of ten. What is drawn
by chance are the clusters, and intervals and tests are taken over these (for language models:
Miller 2024, arXiv:2411.00640). Clusters are numbers, one a question, and have any sizes: their sums
are resampled (`core.resampling`), never means of them.
"""

from collections.abc import Sequence

import numpy as np

from burnish.core.resampling import typical_size

#: With fewer effective clusters than this, chance decides by itself whatever is measured.
FEW = 5.0


def is_clustered(clusters: Sequence[int]) -> bool:
    """Whether two questions share a cluster."""
    return len(set(clusters)) < len(clusters)


def cluster_sums(
    values: Sequence[float] | np.ndarray, clusters: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the values in each cluster, and how many there are; each value is one by itself
    unless some share a cluster."""
    values = np.asarray(values, dtype=float)
    if not is_clustered(clusters):
        return values, np.ones(len(values), dtype=int)
    places = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(places, values), np.bincount(places)


def effective_number(clusters: Sequence[int]) -> float:
    """How many clusters of one size would tell as much, (Σn)²/Σn² (Kish 1965); 0 of nothing."""
    sizes = np.unique(np.asarray(clusters), return_counts=True)[1]
    return float(sizes.sum()) / typical_size(sizes) if len(sizes) else 0.0
