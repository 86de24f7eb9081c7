"""The trainer of `train.objective: reward`: a reward model, trained on pairs of answers."""

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
from burnish.train.loop.trainer import Trainer
from burnish.train.trainers.base import (
    EncoderExample,
    EncoderModule,
    apply_adapter,
    batch_by_length,
    max_text_tokens,
    module_fields,
    pad_to_device,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModule(EncoderModule[EncoderExample]):
    """A reward model in training."""

    def _compute_metrics(self, rows: Sequence[EncoderExample], learns: bool) -> dict[str, float]:
        """Return -log sigmoid(chosen - rejected) (Bradley & Terry 1952; Christiano et al. 2017,
        arXiv:1706.03741), the share of pairs in the right order, and the mean margin."""
        loss = correct = margin = 0.0
        pairs = [row.texts[0] + row.texts[1] for row in rows]
        for indices in batch_by_length(pairs, self.settings.micro_batch_tokens):
            texts = [rows[index].texts[side] for side in (0, 1) for index in indices]
            batch = pad_to_device(texts, self.tokenizer, self.model.device)
            chosen, rejected = self.model(**batch).logits.float()[:, 0].chunk(2)
            batch_loss = -logsigmoid(chosen - rejected).sum() / len(rows)
            if learns:
                batch_loss.backward()
                self.optimizer.accumulate()
            loss += float(batch_loss.detach())
            correct += float((chosen > rejected).sum()) / len(rows)
            margin += float((chosen - rejected).detach().sum()) / len(rows)
        return {"loss": loss, "accuracy": correct, "margin": margin}


class RewardModelTrainer(Trainer[EncoderExample, RewardModule]):
    """Trains a language model with a scalar head on chosen and rejected answers."""

    def tokenize(self) -> tuple[list[EncoderExample], list[EncoderExample]]:
        """Return pairs of answers as examples. Raises BadRecipe for a base of another kind."""
        split, base = self.context.dataset.split, self.context.base
        if base.kind != "causal":
            raise BadRecipe(
                f"{base.name} is an {base.kind} model, and a reward model is trained from a "
                "language model.",
                "Name a language model in model.name.",
            )
        return self._tokenize_rows(split.train), self._tokenize_rows(split.validation)

    def _tokenize_rows(self, rows: Sequence[Row]) -> list[EncoderExample]:
        """Return pairs as tokens. Raises BadData for a row without a rejected answer."""
        context = self.context
        scorer = RewardScorer(torch.nn.Identity(), context.tokenizer, max_text_tokens(context))
        examples = []
        for row in rows:
            if row.rejected is None:
                raise BadData(
                    f"{row.id}: the row has one answer, and a reward model learns from two.",
                    "Give every row a chosen and a rejected answer.",
                )
            chosen, rejected = (scorer.encode(side.messages) for side in row.sides)
            examples.append(EncoderExample((chosen, rejected), 0))
        return examples

    def build(
        self,
        run: Run,
        train_rows: Sequence[EncoderExample],
        validation_rows: Sequence[EncoderExample],
    ) -> RewardModule:
        """Load the language model with a new scalar head."""
        context = self.context
        dtype = training_dtype(context.recipe.model.dtype)
        model = new_reward_model(context.base, context.tokenizer, dtype)
        model = apply_adapter(model, context.recipe.train, "SEQ_CLS")
        return RewardModule(**module_fields(model, context, train_rows, validation_rows))

    def save(self, folder: Path, module: RewardModule, lineage: Mapping[str, Any]) -> Artifact:
        """Write the reward model."""
        context = self.context
        scorer = RewardScorer(module.model, context.tokenizer, max_text_tokens(context))
        return save_reward_model(folder, scorer, context.base, lineage)
