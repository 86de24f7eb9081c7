"""The trainer of `train.objective: seq2seq`: an encoder-decoder (T5, BART)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from burnish.core.errors import BadData
from burnish.core.progress import say
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_pair
from burnish.models.load import training_dtype
from burnish.models.seq2seq import load_seq2seq, max_lengths, save_seq2seq, shift_right
from burnish.models.token_audit import SEQ2SEQ_NOTE
from burnish.train.batching.examples import reject_undesirable
from burnish.train.loop.trainer import Trainer
from burnish.train.trainers.base import (
    EncoderModule,
    apply_adapter,
    batch_by_length,
    module_fields,
    pad_to_device,
)
from burnish.train.trainers.causal_lm import check_token_audit


@dataclass(frozen=True, slots=True)
class Seq2SeqExample:
    """A row as tokens: the encoder's input and the decoder's target. The loss of each target token
    counts `weight` times."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    weight: float

    @property
    def texts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Source and target, as `HasTexts` wants them."""
        return (self.source, self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2SeqModule(EncoderModule[Seq2SeqExample]):
    """An encoder-decoder in training."""

    def _compute_metrics(self, rows: Sequence[Seq2SeqExample], learns: bool) -> dict[str, float]:
        """Return the cross-entropy, averaged over all target tokens by the rows' weights."""
        total_weight = sum(row.weight * len(row.target) for row in rows)
        loss = 0.0
        texts = [row.source + row.target for row in rows]
        for indices in batch_by_length(texts, self.settings.micro_batch_tokens):
            batch_loss = self._loss([rows[index] for index in indices]) / total_weight
            if learns:
                batch_loss.backward()
                self.optimizer.accumulate()
            loss += float(batch_loss.detach())
        return {"loss": loss}

    def _loss(self, rows: Sequence[Seq2SeqExample]) -> torch.Tensor:
        """Return the cross-entropy summed over the rows' target tokens (teacher forcing)."""
        device = self.model.device
        batch = pad_to_device([row.source for row in rows], self.tokenizer, device)
        targets = pad_to_device([row.target for row in rows], self.tokenizer, device)
        row_weights = torch.tensor([[row.weight] for row in rows], device=device)
        weights = targets["attention_mask"] * row_weights
        decoder_ids = shift_right(self.model, targets["input_ids"])
        logits = self.model(**batch, decoder_input_ids=decoder_ids, use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets["input_ids"].flatten(), reduction="none"
        )
        return (losses * weights.flatten()).sum()


class Seq2SeqTrainer(Trainer[Seq2SeqExample, Seq2SeqModule]):
    """Trains an encoder-decoder on questions and answers."""

    def tokenize(self) -> tuple[list[Seq2SeqExample], list[Seq2SeqExample]]:
        """Return the rows as examples, after the token audit."""
        say(SEQ2SEQ_NOTE)
        split = self.context.dataset.split
        return self._tokenize_rows(split.train), self._tokenize_rows(split.validation)

    def _tokenize_rows(self, rows: Sequence[Row]) -> list[Seq2SeqExample]:
        """Raises AuditFailed, and BadData for rows that are longer than the model reads."""
        context = self.context
        reject_undesirable(rows)
        check_token_audit(rows, context.tokenizer, context.recipe)
        limits = max_lengths(AutoConfig.from_pretrained(context.base.path, local_files_only=True))
        examples = []
        for row in rows:
            sides = encode_pair(context.tokenizer, row)
            for name, ids, limit in zip(("question", "answer"), sides, limits, strict=True):
                if len(ids) > limit:
                    raise BadData(
                        f"{row.id}: the {name} has {len(ids)} tokens, and {context.base.name} "
                        f"takes {limit}.",
                        "Shorten or drop the row.",
                    )
            source, target = sides
            weight = row.messages[len(row.prompt)].weight
            examples.append(Seq2SeqExample(tuple(source), tuple(target), weight))
        return examples

    def build(
        self,
        run: Run,
        train_rows: Sequence[Seq2SeqExample],
        validation_rows: Sequence[Seq2SeqExample],
    ) -> Seq2SeqModule:
        """Load the encoder-decoder."""
        context = self.context
        model = load_seq2seq(context.base, training_dtype(context.recipe.model.dtype))
        model = apply_adapter(model, context.recipe.train, "SEQ_2_SEQ_LM")
        return Seq2SeqModule(**module_fields(model, context, train_rows, validation_rows))

    def save(self, folder: Path, module: Seq2SeqModule, lineage: Mapping[str, Any]) -> Artifact:
        """Write the encoder-decoder, or its adapter."""
        context = self.context
        return save_seq2seq(folder, module.model, context.tokenizer, context.base, lineage)
