"""What is learnt from a row: the table of objectives. One entry is one loss over one batch."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from burnish.train.flat import Batch
from burnish.train.losses import LinearCrossEntropy


def sft_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Supervised fine-tuning: cross-entropy summed over the learnt tokens, times their weights.

    Only positions that predict a learnt token reach the vocabulary.
    """
    hidden = model.base_model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        use_cache=False,
        layout=batch.layout,
    ).last_hidden_state[0]
    chosen = hidden.index_select(0, batch.predicts)
    head = model.get_output_embeddings()
    loss: torch.Tensor = LinearCrossEntropy.apply(chosen, head.weight, batch.targets, batch.weights)
    return loss


#: `train.objective.kind` → the loss of a batch: summed, not averaged.
OBJECTIVES: dict[str, Callable[[PreTrainedModel, Batch], torch.Tensor]] = {"sft": sft_loss}
