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
from burnish.models.seq2seq import load_seq2seq, save_seq2seq, shifted, sides
from burnish.models.token_audit import READING
from burnish.train.batching.examples import refuse_undesirable
from burnish.train.loop.trainer import Course, Given
from burnish.train.trainers.base import Heading, batch_of, begun, chunks_of, with_method
from burnish.train.trainers.causal_lm import refuse_unlearnable


@dataclass(frozen=True, slots=True)
class Pair:
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
class Answering(Heading):
    """An encoder-decoder in training."""

    def _means(self, rows: Sequence[Pair], learns: bool) -> dict[str, float]:
        """Cross-entropy, the mean over all target tokens of the rows, by the rows' weights."""
        whole = sum(row.weight * len(row.target) for row in rows)
        loss = 0.0
        both = [row.source + row.target for row in rows]
        for places in chunks_of(both, self.settings.micro_batch_tokens):
            part = self._loss([rows[place] for place in places]) / whole
            if learns:
                part.backward()
                self.optimizer.collect()
            loss += float(part.detach())
        return {"loss": loss}

    def _loss(self, rows: Sequence[Pair]) -> torch.Tensor:
        """Summed over the rows' target tokens, each behind those before it."""
        place = self.model.device
        batch = batch_of([row.source for row in rows], self.tokenizer, place)
        targets = batch_of([row.target for row in rows], self.tokenizer, place)
        weights = targets["attention_mask"] * torch.tensor([[r.weight] for r in rows], device=place)
        given = shifted(self.model, targets["input_ids"])
        logits = self.model(**batch, decoder_input_ids=given, use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets["input_ids"].flatten(), reduction="none"
        )
        return (losses * weights.flatten()).sum()


def refuse_misfit(recipe: Recipe, base: LocalModel) -> None:
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


def _examples(given: Given) -> tuple[list[Pair], list[Pair]]:
    say(READING)
    split = given.dataset.split
    return _pairs(split.train, given), _pairs(split.validation, given)


def _pairs(rows: Sequence[Row], given: Given) -> list[Pair]:
    """Rows as tokens. Raises AuditFailed, and BadData for what is longer than the model reads."""
    refuse_undesirable(rows)
    refuse_unlearnable(rows, given.tokenizer, given.recipe)
    most = sides(AutoConfig.from_pretrained(given.base.path, local_files_only=True))
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
        found.append(Pair(tuple(source), tuple(target), weight))
    return found


def _prepare(given: Given, run: Run, rows: Sequence[Pair], validation: Sequence[Pair]) -> Answering:
    settings = given.recipe.train
    model = load_seq2seq(given.base, training_dtype(given.recipe.model.dtype))
    model = with_method(model, settings, "SEQ_2_SEQ_LM")
    return begun(Answering, model, given, (rows, validation))


def _save(folder: Path, plan: Answering, given: Given, lineage: Mapping[str, Any]) -> Artifact:
    return save_seq2seq(folder, plan.model, given.tokenizer, given.base, lineage)


SEQ2SEQ = Course(_examples, _prepare, _save)
