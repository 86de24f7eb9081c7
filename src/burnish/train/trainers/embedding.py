"""`train.objective: embed`: an embedding model, tuned on texts that belong together.

A row is an anchor and a right text (question and passage), perhaps with a wrong one; of labelled
rows, two of one label belong together. Every other text of the step is wrong for an anchor, unless
it is about the same: has the same label, or is the same right text.
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
from burnish.train.loop.trainer import TrainContext, Trainer
from burnish.train.losses.contrastive import LOSSES
from burnish.train.trainers.base import (
    EncoderExample,
    apply_adapter,
    batch_by_length,
    build_module,
    count_tokens,
    encode_texts,
    max_text_tokens,
    pad_to_device,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingModule(TrainingModule):
    """An embedding model in training."""

    tokenizer: PreTrainedTokenizerBase
    objective: Embed

    def training_step(self, rows: Sequence[EncoderExample], step: int) -> StepResult:
        """Gradients of one step, whose rows are compared with one another all at once."""
        self.model.train()
        loss, right = self._score(rows)
        (loss.sum() / len(rows)).backward()
        self.optimizer.accumulate()
        means = {"loss": float(loss.detach().mean()), "accuracy": float(right.mean())}
        return StepResult(means, count_tokens(rows))

    @torch.no_grad()
    def validation_step(self, rows: Sequence[EncoderExample]) -> dict[str, float]:
        """The means over steps of the same size; a small one would be too easy."""
        self.model.eval()
        size = self.settings.batch_size
        steps = [self._score(rows[begin : begin + size]) for begin in range(0, len(rows), size)]
        loss, right = (torch.cat(parts).mean() for parts in zip(*steps, strict=True))
        return {"loss": float(loss), "accuracy": float(right)}

    def _score(self, rows: Sequence[EncoderExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows,) losses, and whether no wrong text is nearer to the anchor than the right one."""
        wrongs = [row for row in rows if len(row.texts) > 2]
        texts = [row.texts[side] for side in (0, 1) for row in rows]
        vectors = self._embed([*texts, *(row.texts[2] for row in wrongs)])
        anchors, others = vectors[: len(rows)], vectors[len(rows) :]
        own = torch.tensor([row.target for row in rows])
        about = torch.cat([own, torch.full((len(wrongs),), -1)])
        wrong = (own[:, None] != about[None]).to(vectors.device)
        losses = LOSSES[self.objective.loss](anchors, others, wrong, self.objective)
        scores = (anchors @ others.T).detach()
        nearest = scores.masked_fill(~wrong, -torch.inf).amax(1)
        return losses, (scores.diagonal() > nearest).float()

    def _embed(self, texts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """(texts, width) unit vectors, float32.

        Where they don't fit into one pass, the activations of one at a time are kept: the others
        are computed again for their gradients (GradCache, Gao et al. 2021, arXiv:2101.06983).
        """
        chunks = batch_by_length(texts, self.settings.micro_batch_tokens)
        parts: list[torch.Tensor] = []
        for places in chunks:
            some = [texts[place] for place in places]
            batch = pad_to_device(some, self.tokenizer, self.model.device)
            again = len(chunks) > 1 and torch.is_grad_enabled()
            vectors: Any = (
                checkpoint(self._encode_batch, batch, use_reentrant=False)
                if again
                else self._encode_batch(batch)
            )
            parts.append(vectors)
        order = torch.tensor([place for places in chunks for place in places]).argsort()
        return torch.cat(parts)[order.to(self.model.device)]

    def _encode_batch(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return embed_tokens(self.model, batch)


def _tokenize(given: TrainContext) -> tuple[list[EncoderExample], list[EncoderExample]]:
    check_embedder_supported(given.base)
    split, seed = given.dataset.split, given.recipe.train.seed
    is_labelled = given.dataset.task.kind == "classification"
    found = []
    for rows in (split.train, split.validation):
        some = _same_label_pairs(rows, seed) if is_labelled else _question_answer_pairs(rows)
        found.append(_tokenize_pairs(some, given))
    return found[0], found[1]


#: Texts (anchor, right, perhaps wrong), and what they are about.
_Texts = tuple[tuple[str, ...], str]


def _question_answer_pairs(rows: Sequence[Row]) -> list[_Texts]:
    """Questions and what answers them. Raises BadData for rows without one of the two."""
    found = []
    for row in rows:
        anchor, right = user_text(row.prompt), row.answer
        if not (anchor and right):
            raise BadData(
                f"{row.file}, row {row.line}: there are no two texts that belong together.",
                'Write {"prompt": ..., "completion": ...}, or add "rejected" to "prompt" and '
                '"chosen" for a wrong text; of labelled rows, set task.kind to classification.',
            )
        wrong = (row.rejected.content,) if row.rejected else ()
        found.append(((anchor, right, *wrong), right))
    return found


def _same_label_pairs(rows: Sequence[Row], seed: int) -> list[_Texts]:
    """Each row with the next one of its label, in an order drawn by seed."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_label[row.answer].append(user_text(row.prompt))
    found: list[_Texts] = []
    alone = 0
    for label, texts in by_label.items():
        random.Random(f"{seed}/{label}").shuffle(texts)
        alone += len(texts) == 1
        pairs = zip(texts, [*texts[1:], texts[0]], strict=True) if len(texts) > 1 else ()
        found += [((anchor, right), label) for anchor, right in pairs]
    if alone:
        say(f"Left out {alone} labels of one row each: there is nothing that belongs to it.")
    return found


def _tokenize_pairs(rows: Sequence[_Texts], given: TrainContext) -> list[EncoderExample]:
    about = {name: number for number, name in enumerate(dict.fromkeys(own for _, own in rows))}
    encoded = iter(encode_texts([text for texts, _ in rows for text in texts], given))
    return [EncoderExample(tuple(next(encoded) for _ in texts), about[own]) for texts, own in rows]


def _build(
    given: TrainContext,
    run: Run,
    rows: Sequence[EncoderExample],
    validation: Sequence[EncoderExample],
) -> EmbeddingModule:
    settings = given.recipe.train
    assert isinstance(settings.objective, Embed)
    dtype = training_dtype(given.recipe.model.dtype)
    model = apply_adapter(Embedder(given.base).model.to(dtype), settings, "FEATURE_EXTRACTION")
    return build_module(
        EmbeddingModule, model, given, (rows, validation), objective=settings.objective
    )


def _save(
    folder: Path, plan: EmbeddingModule, given: TrainContext, lineage: Mapping[str, Any]
) -> Artifact:
    is_lora = hasattr(plan.model, "peft_config")
    model = plan.model.merge_and_unload() if is_lora else plan.model
    return save_embedder(folder, model, given.base, max_text_tokens(given), lineage)


EMBEDDING_TRAINER = Trainer(_tokenize, _build, _save)
