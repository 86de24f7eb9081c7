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
from burnish.models.heads.reward_model import RewardScorer, new_reward_model, save_reward_model
from burnish.models.load import training_dtype
from burnish.train.loop.trainer import TrainContext, Trainer
from burnish.train.trainers.base import (
    EncoderExample,
    EncoderModule,
    apply_adapter,
    batch_by_length,
    build_module,
    max_text_tokens,
    pad_to_device,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModule(EncoderModule):
    """A reward model in training."""

    def _compute_metrics(self, rows: Sequence[EncoderExample], learns: bool) -> dict[str, float]:
        """-log sigmoid(better less worse) (Bradley & Terry 1952; Christiano et al. 2017,
        arXiv:1706.03741), the share of pairs in the right order, and the mean distance."""
        loss = right = apart = 0.0
        pairs = [row.texts[0] + row.texts[1] for row in rows]
        for places in batch_by_length(pairs, self.settings.micro_batch_tokens):
            texts = [rows[place].texts[side] for side in (0, 1) for place in places]
            batch = pad_to_device(texts, self.tokenizer, self.model.device)
            better, worse = self.model(**batch).logits.float()[:, 0].chunk(2)
            part = -logsigmoid(better - worse).sum() / len(rows)
            if learns:
                part.backward()
                self.optimizer.accumulate()
            loss += float(part.detach())
            right += float((better > worse).sum()) / len(rows)
            apart += float((better - worse).detach().sum()) / len(rows)
        return {"loss": loss, "accuracy": right, "margin": apart}


def _tokenize(given: TrainContext) -> tuple[list[EncoderExample], list[EncoderExample]]:
    split, base = given.dataset.split, given.base
    if base.kind != "causal":
        raise BadRecipe(
            f"{base.name} is an {base.kind} model, and a reward model begins as a language model.",
            "Name a language model in model.name.",
        )
    return _tokenize_pairs(split.train, given), _tokenize_pairs(split.validation, given)


def _tokenize_pairs(rows: Sequence[Row], given: TrainContext) -> list[EncoderExample]:
    """Pairs as tokens. Raises BadData for a row without a rejected answer."""
    reader = RewardScorer(torch.nn.Identity(), given.tokenizer, max_text_tokens(given))
    samples = []
    for row in rows:
        if row.rejected is None:
            raise BadData(
                f"{row.id}: the row has one answer, and a reward model learns from two.",
                "Give every row a chosen and a rejected answer.",
            )
        better, worse = (reader.encode(side.messages) for side in row.sides)
        samples.append(EncoderExample((better, worse), 0))
    return samples


def _build(
    given: TrainContext,
    run: Run,
    rows: Sequence[EncoderExample],
    validation: Sequence[EncoderExample],
) -> RewardModule:
    settings = given.recipe.train
    dtype = training_dtype(given.recipe.model.dtype)
    model = apply_adapter(new_reward_model(given.base, given.tokenizer, dtype), settings, "SEQ_CLS")
    return build_module(RewardModule, model, given, (rows, validation))


def _save(
    folder: Path, plan: RewardModule, given: TrainContext, lineage: Mapping[str, Any]
) -> Artifact:
    trained = RewardScorer(plan.model, given.tokenizer, max_text_tokens(given))
    return save_reward_model(folder, trained, given.base, lineage)


REWARD_TRAINER = Trainer(_tokenize, _build, _save)
