"""A question and a passage, read together by one model: how well does the one answer the other?

A cross-encoder (Nogueira & Cho 2019, arXiv:1901.04085): a transformer with a head of one number
over the pair. Slower than comparing vectors, since nothing can be computed before the question is
known; so only the best of a search are read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from burnish.core.errors import BadRecipe
from burnish.models.load import default_device, load_tokenizer
from burnish.models.local_models import LocalModel

_BATCH = 16


class Reranker:
    """Scores of pairs. Raises BadRecipe for a model that doesn't give one number."""

    def __init__(self, local: LocalModel) -> None:
        if local.kind != "reranker":
            raise BadRecipe(
                f"{local.name} is a {local.kind} model; it doesn't judge passages.",
                "Name a cross-encoder, a model `...ForSequenceClassification` of one label.",
            )
        self.name, self.sha256 = local.name, local.sha256
        self.tokenizer: Any = load_tokenizer(local)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            local.path, dtype=torch.float32, local_files_only=True
        )
        if model.config.num_labels != 1:
            raise BadRecipe(
                f"{local.name} tells {model.config.num_labels} classes apart; a passage is ordered "
                "by one number.",
                "Name a cross-encoder that was trained for ranking.",
            )
        self.model = model.to(default_device()).eval()
        self.max_tokens = min(self.tokenizer.model_max_length, local.context_length)

    def score(self, question: str, texts: Sequence[str]) -> np.ndarray:
        """One number a text, float32; higher is better. A text that is too long loses its end."""
        found = np.zeros(len(texts), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for begin in range(0, len(order), _BATCH):
            places = order[begin : begin + _BATCH]
            found[places] = self._score_batch(question, [texts[place] for place in places])
        return found

    @torch.inference_mode()
    def _score_batch(self, question: str, texts: list[str]) -> np.ndarray:
        tokens = self.tokenizer(
            [question] * len(texts), texts, padding=True, truncation="only_second",
            max_length=self.max_tokens, return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        scores: np.ndarray = self.model(**tokens).logits[:, 0].float().cpu().numpy()
        return scores
