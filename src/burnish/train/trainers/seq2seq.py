"""`train.objective: seq2seq`: an encoder-decoder, trained to answer what its encoder has read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from burnish.core.errors import BadData, BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.objectives import Seq2Seq
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_pair
from burnish.models.load import training_dtype
from burnish.models.local_models import LocalModel
from burnish.models.seq2seq import load_seq2seq, max_lengths, save_seq2seq, shift_right
from burnish.models.token_audit import SEQ2SEQ_NOTE
from burnish.train.batching.examples import reject_undesirable
from burnish.train.loop.trainer import TrainContext, Trainer
from burnish.train.trainers.base import (
    EncoderModule,
    apply_adapter,
    batch_by_length,
    build_module,
    pad_to_device,
)
from burnish.train.trainers.causal_lm import check_token_audit


@dataclass(frozen=True, slots=True)
class Seq2SeqExample:
    """A row as tokens: what the encoder reads, and what the decoder should say. The loss of each
    of the target's tokens counts `weight` times."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    weight: float

    @property
    def texts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What it has to read, as other rows have it."""
        return (self.source, self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2SeqModule(EncoderModule):
    """An encoder-decoder in training."""

    def _compute_metrics(self, rows: Sequence[Seq2SeqExample], learns: bool) -> dict[str, float]:
        """Cross-entropy, the mean over all target tokens of the rows, by the rows' weights."""
        whole = sum(row.weight * len(row.target) for row in rows)
        loss = 0.0
        both = [row.source + row.target for row in rows]
        for places in batch_by_length(both, self.settings.micro_batch_tokens):
            part = self._loss([rows[place] for place in places]) / whole
            if learns:
                part.backward()
                self.optimizer.accumulate()
            loss += float(part.detach())
        return {"loss": loss}

    def _loss(self, rows: Sequence[Seq2SeqExample]) -> torch.Tensor:
        """Summed over the rows' target tokens, each behind those before it."""
        place = self.model.device
        batch = pad_to_device([row.source for row in rows], self.tokenizer, place)
        targets = pad_to_device([row.target for row in rows], self.tokenizer, place)
        weights = targets["attention_mask"] * torch.tensor([[r.weight] for r in rows], device=place)
        given = shift_right(self.model, targets["input_ids"])
        logits = self.model(**batch, decoder_input_ids=given, use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets["input_ids"].flatten(), reduction="none"
        )
        return (losses * weights.flatten()).sum()


def check_supported(recipe: Recipe, base: LocalModel) -> None:
    """Raise BadRecipe if the objective is for encoder-decoders and the model is none, or the other
    way round."""
    objective = recipe.train.objective
    if isinstance(objective, Seq2Seq) and base.kind != "seq2seq":
        raise BadRecipe(
            f"train.objective=seq2seq is for encoder-decoders, and {base.name} is none "
            f"({base.kind}).",
            "Name a T5 or a BART in model.name, or leave train.objective out.",
        )
    is_language = not recipe.train.is_encoding and not isinstance(objective, Seq2Seq)
    if is_language and base.kind == "seq2seq":
        raise BadRecipe(
            f"{base.name} is an encoder-decoder, and train.objective={objective.kind} is for "
            "language models.",
            "Set train.objective=seq2seq, with train.method lora or full.",
        )


def _tokenize(given: TrainContext) -> tuple[list[Seq2SeqExample], list[Seq2SeqExample]]:
    say(SEQ2SEQ_NOTE)
    split = given.dataset.split
    return _tokenize_rows(split.train, given), _tokenize_rows(split.validation, given)


def _tokenize_rows(rows: Sequence[Row], given: TrainContext) -> list[Seq2SeqExample]:
    """Rows as tokens. Raises AuditFailed, and BadData for what is longer than the model reads."""
    reject_undesirable(rows)
    check_token_audit(rows, given.tokenizer, given.recipe)
    most = max_lengths(AutoConfig.from_pretrained(given.base.path, local_files_only=True))
    found = []
    for row in rows:
        source, target = encode_pair(given.tokenizer, row)
        for name, ids, limit in zip(("question", "answer"), (source, target), most, strict=True):
            if len(ids) > limit:
                raise BadData(
                    f"{row.id}: the {name} has {len(ids)} tokens, and {given.base.name} takes "
                    f"{limit}.",
                    "Shorten or drop the row.",
                )
        weight = row.messages[len(row.prompt)].weight
        found.append(Seq2SeqExample(tuple(source), tuple(target), weight))
    return found


def _build(
    given: TrainContext,
    run: Run,
    rows: Sequence[Seq2SeqExample],
    validation: Sequence[Seq2SeqExample],
) -> Seq2SeqModule:
    settings = given.recipe.train
    model = load_seq2seq(given.base, training_dtype(given.recipe.model.dtype))
    model = apply_adapter(model, settings, "SEQ_2_SEQ_LM")
    return build_module(Seq2SeqModule, model, given, (rows, validation))


def _save(
    folder: Path, plan: Seq2SeqModule, given: TrainContext, lineage: Mapping[str, Any]
) -> Artifact:
    return save_seq2seq(folder, plan.model, given.tokenizer, given.base, lineage)


SEQ2SEQ_TRAINER = Trainer(_tokenize, _build, _save)
