"""Pad tokenized texts into one batch tensor."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase


def pad_batch(
    texts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of shape (texts, longest), padded on the right."""
    longest = max(len(text) for text in texts)
    ids = torch.full((len(texts), longest), int(padding_token_id(tokenizer)))
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def padding_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokenizer's pad token, else its end-of-text token."""
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(token or 0)  # type: ignore[arg-type]
