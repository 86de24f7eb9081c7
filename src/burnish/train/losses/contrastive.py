"""Losses of vectors: texts that belong together are to be nearer than those that don't.

`anchors` (n, width) and `others` (m, width) are unit vectors; the right one of anchor i is other i.
`wrong` (n, m) is true where an other is no match for an anchor; one that is neither (a second right
one, of the same label) is left out. Each gives the loss of every anchor, (n,).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from burnish.core.recipe.objectives import Embed


def ranking_loss(anchors: Tensor, others: Tensor, wrong: Tensor, settings: Embed) -> Tensor:
    """Cross-entropy of the right one among all: InfoNCE (van den Oord et al. 2018,
    arXiv:1807.03748) with in-batch negatives (Henderson et al. 2017, arXiv:1705.00652)."""
    scores = settings.scale * anchors @ others.T
    right = torch.arange(len(anchors), device=anchors.device)
    counted = wrong | functional.one_hot(right, len(others)).bool()
    return functional.cross_entropy(
        scores.masked_fill(~counted, -torch.inf), right, reduction="none"
    )


def triplet_loss(anchors: Tensor, others: Tensor, wrong: Tensor, settings: Embed) -> Tensor:
    """max(0, d(anchor, right) - d(anchor, nearest wrong) + margin), d the Euclidean distance
    (Schroff et al. 2015, arXiv:1503.03832; the hardest of the batch: Hermans et al. 2017,
    arXiv:1703.07737)."""
    away = _distances(anchors, others)
    nearest = away.masked_fill(~wrong, torch.inf).amin(1)
    return (away.diagonal() - nearest + settings.margin).clamp(min=0)


def contrastive_loss(anchors: Tensor, others: Tensor, wrong: Tensor, settings: Embed) -> Tensor:
    """d² of the right one, and max(0, margin - d)² of the wrong ones, their mean (Hadsell, Chopra
    & LeCun 2006)."""
    away = _distances(anchors, others)
    pushed = (settings.margin - away).clamp(min=0).square() * wrong
    return away.diagonal().square() + pushed.sum(1) / wrong.sum(1).clamp(min=1)


def _distances(anchors: Tensor, others: Tensor) -> Tensor:
    """(n, m) Euclidean distances of unit vectors; a root has no gradient at 0."""
    return (2 - 2 * anchors @ others.T).clamp(min=1e-12).sqrt()


#: `train.objective.loss` → the loss.
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Embed], Tensor]] = {
    "ranking": ranking_loss,
    "triplet": triplet_loss,
    "contrastive": contrastive_loss,
}
