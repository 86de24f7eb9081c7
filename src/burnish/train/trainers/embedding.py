"""The trainer of `train.objective: embed`: an embedding model, trained on pairs of texts.

A row is an anchor and a positive text (question and passage), perhaps with a negative one; of
labelled rows, two of one label make a pair. Every other text of the step is a negative of an
anchor, unless it has the same subject: the same label, or the same positive text.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData
from burnish.core.progress import say
from burnish.core.recipe.objectives import Embed
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.engines.heads.base import user_text
from burnish.models.artifact import Artifact
from burnish.models.heads.embedder import (
    Embedder,
    check_embedder_supported,
    embed_tokens,
    save_embedder,
)
from burnish.models.load import training_dtype
from burnish.train.loop.loop import StepResult, TrainingModule
from burnish.train.loop.trainer import Trainer
from burnish.train.losses.contrastive import LOSSES
from burnish.train.trainers.base import (
    EncoderExample,
    apply_adapter,
    batch_by_length,
    count_tokens,
    encode_texts,
    max_text_tokens,
    module_fields,
    pad_to_device,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingModule(TrainingModule[EncoderExample]):
    """An embedding model in training."""

    tokenizer: PreTrainedTokenizerBase
    objective: Embed

    def training_step(self, rows: Sequence[EncoderExample], step: int) -> StepResult:
        """Compute the gradients of one step, whose rows are all compared with one another."""
        self.model.train()
        loss, correct = self._score(rows)
        (loss.sum() / len(rows)).backward()
        self.optimizer.accumulate()
        metrics = {"loss": float(loss.detach().mean()), "accuracy": float(correct.mean())}
        return StepResult(metrics, count_tokens(rows))

    @torch.no_grad()
    def validation_step(self, rows: Sequence[EncoderExample]) -> dict[str, float]:
        """Return the means over batches of a step's size; a smaller one would be too easy."""
        self.model.eval()
        size = self.settings.batch_size
        steps = [self._score(rows[begin : begin + size]) for begin in range(0, len(rows), size)]
        loss, accuracy = (torch.cat(parts).mean() for parts in zip(*steps, strict=True))
        return {"loss": float(loss), "accuracy": float(accuracy)}

    def _score(self, rows: Sequence[EncoderExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (rows,) losses, and 1 where the positive text is nearer to the anchor than every
        negative."""
        with_negative = [row for row in rows if len(row.texts) > 2]
        texts = [row.texts[side] for side in (0, 1) for row in rows]
        vectors = self._embed([*texts, *(row.texts[2] for row in with_negative)])
        anchors, others = vectors[: len(rows)], vectors[len(rows) :]
        subjects = torch.tensor([row.target for row in rows])
        other_subjects = torch.cat([subjects, torch.full((len(with_negative),), -1)])
        is_negative = (subjects[:, None] != other_subjects[None]).to(vectors.device)
        losses = LOSSES[self.objective.loss](anchors, others, is_negative, self.objective)
        scores = (anchors @ others.T).detach()
        nearest = scores.masked_fill(~is_negative, -torch.inf).amax(1)
        return losses, (scores.diagonal() > nearest).float()

    def _embed(self, texts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Return (texts, width) unit vectors, float32.

        Where the texts don't fit into one pass, the activations of one pass at a time are kept: the
        others are recomputed for their gradients (GradCache, Gao et al. 2021, arXiv:2101.06983).
        """
        batches = batch_by_length(texts, self.settings.micro_batch_tokens)
        recomputes = len(batches) > 1 and torch.is_grad_enabled()
        parts: list[torch.Tensor] = []
        for indices in batches:
            batch = pad_to_device(
                [texts[index] for index in indices], self.tokenizer, self.model.device
            )
            vectors: Any = (
                checkpoint(self._encode_batch, batch, use_reentrant=False)
                if recomputes
                else self._encode_batch(batch)
            )
            parts.append(vectors)
        order = torch.tensor([index for indices in batches for index in indices]).argsort()
        return torch.cat(parts)[order.to(self.model.device)]

    def _encode_batch(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return embed_tokens(self.model, batch)


#: Texts (anchor, positive, perhaps negative), and their subject.
_Texts = tuple[tuple[str, ...], str]


def _question_answer_pairs(rows: Sequence[Row]) -> list[_Texts]:
    """Return questions with their answers. Raises BadData for rows without one of the two."""
    pairs = []
    for row in rows:
        anchor, positive = user_text(row.prompt), row.answer
        if not (anchor and positive):
            raise BadData(
                f"{row.file}, row {row.line}: the row doesn't have two texts that belong together.",
                'Write {"prompt": ..., "completion": ...}, or add "rejected" to "prompt" and '
                '"chosen" for a negative text; for labelled rows, set task.kind to classification.',
            )
        negative = (row.rejected.content,) if row.rejected else ()
        pairs.append(((anchor, positive, *negative), positive))
    return pairs


def _same_label_pairs(rows: Sequence[Row], seed: int) -> list[_Texts]:
    """Pair each row with the next one of its label, in an order shuffled by `seed`."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_label[row.answer].append(user_text(row.prompt))
    labelled_pairs: list[_Texts] = []
    single = 0
    for label, texts in by_label.items():
        random.Random(f"{seed}/{label}").shuffle(texts)
        single += len(texts) == 1
        pairs = zip(texts, [*texts[1:], texts[0]], strict=True) if len(texts) > 1 else ()
        labelled_pairs += [((anchor, positive), label) for anchor, positive in pairs]
    if single:
        say(f"Left out {single} labels that have one row only: there is nothing to pair it with.")
    return labelled_pairs


class EmbeddingTrainer(Trainer[EncoderExample, EmbeddingModule]):
    """Trains an embedding model on pairs of texts."""

    def tokenize(self) -> tuple[list[EncoderExample], list[EncoderExample]]:
        """Return pairs of texts as examples. Raises BadData for rows that make no pair."""
        check_embedder_supported(self.context.base)
        split = self.context.dataset.split
        return self._tokenize_rows(split.train), self._tokenize_rows(split.validation)

    def _tokenize_rows(self, rows: Sequence[Row]) -> list[EncoderExample]:
        context = self.context
        is_labelled = context.dataset.task.kind == "classification"
        seed = context.recipe.train.seed
        pairs = _same_label_pairs(rows, seed) if is_labelled else _question_answer_pairs(rows)
        unique = dict.fromkeys(subject for _, subject in pairs)
        numbers = {subject: number for number, subject in enumerate(unique)}
        encoded = iter(encode_texts([text for texts, _ in pairs for text in texts], context))
        return [
            EncoderExample(tuple(next(encoded) for _ in texts), numbers[subject])
            for texts, subject in pairs
        ]

    def build(
        self,
        run: Run,
        train_rows: Sequence[EncoderExample],
        validation_rows: Sequence[EncoderExample],
    ) -> EmbeddingModule:
        """Load the encoder of the embedding model."""
        context, settings = self.context, self.context.recipe.train
        assert isinstance(settings.objective, Embed)
        dtype = training_dtype(context.recipe.model.dtype)
        encoder = Embedder(context.base).model.to(dtype)
        model = apply_adapter(encoder, settings, "FEATURE_EXTRACTION")
        return EmbeddingModule(
            **module_fields(model, context, train_rows, validation_rows),
            objective=settings.objective,
        )

    def save(self, folder: Path, module: EmbeddingModule, lineage: Mapping[str, Any]) -> Artifact:
        """Write the embedding model, with its adapter merged."""
        is_lora = hasattr(module.model, "peft_config")
        model = module.model.merge_and_unload() if is_lora else module.model
        context = self.context
        return save_embedder(folder, model, context.base, max_text_tokens(context), lineage)
