"""`train.objective: reward`: a model learns which of two answers people like better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from burnish.core.errors import BadData, BadRecipe
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.models.artifact import Artifact
from burnish.models.heads.reward_model import RewardModel, new_reward_model, save_reward_model
from burnish.models.load import training_dtype
from burnish.train.loop.trainer import Course, Given
from burnish.train.trainers.base import (
    Heading,
    Sample,
    batch_of,
    begun,
    chunks_of,
    most_tokens,
    with_method,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Valuing(Heading):
    """A reward model in training."""

    def _means(self, rows: Sequence[Sample], learns: bool) -> dict[str, float]:
        """-log sigmoid(better less worse) (Bradley & Terry 1952; Christiano et al. 2017,
        arXiv:1706.03741), the share of pairs in the right order, and the mean distance."""
        loss = right = apart = 0.0
        pairs = [row.texts[0] + row.texts[1] for row in rows]
        for places in chunks_of(pairs, self.settings.micro_batch_tokens):
            texts = [rows[place].texts[side] for side in (0, 1) for place in places]
            batch = batch_of(texts, self.tokenizer, self.model.device)
            better, worse = self.model(**batch).logits.float()[:, 0].chunk(2)
            part = -logsigmoid(better - worse).sum() / len(rows)
            if learns:
                part.backward()
                self.optimizer.collect()
            loss += float(part.detach())
            right += float((better > worse).sum()) / len(rows)
            apart += float((better - worse).detach().sum()) / len(rows)
        return {"loss": loss, "accuracy": right, "margin": apart}


def _examples(given: Given) -> tuple[list[Sample], list[Sample]]:
    split, base = given.dataset.split, given.base
    if base.kind != "causal":
        raise BadRecipe(
            f"{base.name} is an {base.kind} model, and a reward model begins as a language model.",
            "Name a language model in model.name.",
        )
    return _samples(split.train, given), _samples(split.validation, given)


def _samples(rows: Sequence[Row], given: Given) -> list[Sample]:
    """Pairs as tokens. Raises BadData for a row without a rejected answer."""
    reader = RewardModel(torch.nn.Identity(), given.tokenizer, most_tokens(given))
    samples = []
    for row in rows:
        if row.rejected is None:
            raise BadData(
                f"{row.id}: the row has one answer, and a reward model learns from two.",
                "Give every row a chosen and a rejected answer.",
            )
        better, worse = (reader.encode(side.messages) for side in row.sides)
        samples.append(Sample((better, worse), 0))
    return samples


def _prepare(
    given: Given, run: Run, rows: Sequence[Sample], validation: Sequence[Sample]
) -> Valuing:
    settings = given.recipe.train
    dtype = training_dtype(given.recipe.model.dtype)
    model = with_method(new_reward_model(given.base, given.tokenizer, dtype), settings, "SEQ_CLS")
    return begun(Valuing, model, given, (rows, validation))


def _save(folder: Path, plan: Valuing, given: Given, lineage: Mapping[str, Any]) -> Artifact:
    trained = RewardModel(plan.model, given.tokenizer, most_tokens(given))
    return save_reward_model(folder, trained, given.base, lineage)


VALUING = Course(_examples, _prepare, _save)
