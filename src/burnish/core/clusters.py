"""Questions that hang together: turns of one conversation, tickets of one customer.

They are easy or hard together, so that ten of one customer tell less than ten of ten. What is drawn
by chance are the clusters, and intervals and tests are taken over these (for language models:
Miller 2024, arXiv:2411.00640). Clusters are numbers, one a question.
"""

from collections.abc import Sequence

import numpy as np


def is_clustered(clusters: Sequence[int]) -> bool:
    """Whether two questions share a cluster."""
    return len(set(clusters)) < len(clusters)


def cluster_sums(
    values: Sequence[float] | np.ndarray, clusters: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the values in each cluster, and how many there are."""
    places = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(places, values), np.bincount(places)


def cluster_values(values: Sequence[float] | np.ndarray, clusters: Sequence[int]) -> np.ndarray:
    """One number a cluster; their mean is that of the values, and they vary as it does when whole
    clusters are drawn (the linearised ratio of sums, Cochran 1977, ch. 2.11). Clusters of one size
    give their means."""
    sums, sizes = cluster_sums(values, clusters)
    mean = float(np.mean(values))
    return np.asarray(mean + (sums - mean * sizes) * len(sizes) / len(values))
