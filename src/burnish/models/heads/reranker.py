"""A cross-encoder that scores how well a passage answers a question.

Question and passage are read together by a transformer with a one-number head (Nogueira & Cho 2019,
arXiv:1901.04085). It is slower than comparing vectors, since nothing can be computed before the
question is known; so it only reorders the best of a search.
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
    """Scores question-passage pairs. Raises BadRecipe for a model that doesn't output one
    number."""

    def __init__(self, local: LocalModel) -> None:
        if local.kind != "reranker":
            raise BadRecipe(
                f"{local.name} is a {local.kind} model; it doesn't score passages.",
                "Name a cross-encoder, a model `...ForSequenceClassification` of one label.",
            )
        self.name, self.sha256 = local.name, local.sha256
        self.tokenizer: Any = load_tokenizer(local)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            local.path, dtype=torch.float32, local_files_only=True
        )
        if model.config.num_labels != 1:
            raise BadRecipe(
                f"{local.name} has {model.config.num_labels} classes; a ranking model has "
                "one output.",
                "Name a cross-encoder that was trained for ranking.",
            )
        self.model = model.to(default_device()).eval()
        self.max_tokens = min(self.tokenizer.model_max_length, local.context_length)

    def score(self, question: str, texts: Sequence[str]) -> np.ndarray:
        """Return one number per text, float32; higher is better. The end of a long text is cut."""
        scores = np.zeros(len(texts), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for begin in range(0, len(order), _BATCH):
            indices = order[begin : begin + _BATCH]
            scores[indices] = self._score_batch(question, [texts[index] for index in indices])
        return scores

    @torch.inference_mode()
    def _score_batch(self, question: str, texts: list[str]) -> np.ndarray:
        tokens = self.tokenizer(
            [question] * len(texts), texts, padding=True, truncation="only_second",
            max_length=self.max_tokens, return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        scores: np.ndarray = self.model(**tokens).logits[:, 0].float().cpu().numpy()
        return scores
