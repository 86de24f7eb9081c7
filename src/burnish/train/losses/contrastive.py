"""Contrastive losses of embeddings: positives are to be nearer to their anchor than negatives.

`anchors` (n, width) and `others` (m, width) are unit vectors; other i is the positive of
anchor i. `is_negative` (n, m) is true where an other is a negative of an anchor; a text of
the anchor's label that is neither negative nor its positive is left out. Each function returns (n,)
losses.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from burnish.core.recipe.objectives import Embed


def ranking_loss(anchors: Tensor, others: Tensor, is_negative: Tensor, settings: Embed) -> Tensor:
    """Cross-entropy of the positive among all: InfoNCE (van den Oord et al. 2018,
    arXiv:1807.03748) with in-batch negatives (Henderson et al. 2017, arXiv:1705.00652)."""
    scores = settings.scale * anchors @ others.T
    positives = torch.arange(len(anchors), device=anchors.device)
    is_counted = is_negative | functional.one_hot(positives, len(others)).bool()
    return functional.cross_entropy(
        scores.masked_fill(~is_counted, -torch.inf), positives, reduction="none"
    )


def triplet_loss(anchors: Tensor, others: Tensor, is_negative: Tensor, settings: Embed) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, nearest negative) + margin), d the Euclidean distance
    (Schroff et al. 2015, arXiv:1503.03832; the hardest of the batch: Hermans et al. 2017,
    arXiv:1703.07737)."""
    distances = _distances(anchors, others)
    nearest = distances.masked_fill(~is_negative, torch.inf).amin(1)
    return (distances.diagonal() - nearest + settings.margin).clamp(min=0)


def contrastive_loss(
    anchors: Tensor, others: Tensor, is_negative: Tensor, settings: Embed
) -> Tensor:
    """d² of the positive plus the mean of max(0, margin - d)² over the negatives (Hadsell, Chopra
    & LeCun 2006)."""
    distances = _distances(anchors, others)
    penalties = (settings.margin - distances).clamp(min=0).square() * is_negative
    return distances.diagonal().square() + penalties.sum(1) / is_negative.sum(1).clamp(min=1)


def _distances(anchors: Tensor, others: Tensor) -> Tensor:
    """Return (n, m) Euclidean distances of unit vectors, above 0: a root has no gradient at 0."""
    return (2 - 2 * anchors @ others.T).clamp(min=1e-12).sqrt()


#: `train.objective.loss` → the loss.
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Embed], Tensor]] = {
    "ranking": ranking_loss,
    "triplet": triplet_loss,
    "contrastive": contrastive_loss,
}
