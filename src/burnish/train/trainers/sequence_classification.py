"""`train.objective: classify`: a model with a head of labels, trained on labelled rows."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import BadData, BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.objectives import Classify
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.engines.heads.base import said
from burnish.models.artifact import Artifact
from burnish.models.heads.classifier import SequenceClassifier, headed_model, save_classifier
from burnish.models.load import training_dtype
from burnish.train.distillation.encoder_teacher import Beside, beside, teacher_of
from burnish.train.distillation.hidden_states import drop_matrix, lead_into
from burnish.train.loop.trainer import Course, Given
from burnish.train.trainers.base import (
    Heading,
    Sample,
    batch_of,
    begun,
    chunks_of,
    encode_texts,
    most_tokens,
    with_method,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifying(Heading):
    """A classification head in training; `weights` (labels,) are those of the labels' losses,
    `beside` the teacher whose layers it is held to."""

    weights: torch.Tensor
    beside: Beside | None = None

    def _means(self, rows: Sequence[Sample], learns: bool) -> dict[str, float]:
        """Cross-entropy, the mean over the rows by their labels' weights (as torch's), and the
        share of the rows whose likeliest label is right; beside a teacher also how far it is, the
        mean over the rows."""
        targets = torch.tensor([row.target for row in rows], device=self.weights.device)
        texts, whole = [row.texts[0] for row in rows], float(self.weights[targets].sum())
        loss = right = 0.0
        away: dict[str, float] = defaultdict(float)
        for places in chunks_of(texts, self.settings.micro_batch_tokens):
            batch = batch_of([texts[place] for place in places], self.tokenizer, targets.device)
            logits, apart = self._read(batch)
            wanted = targets[places]
            part = torch.nn.functional.cross_entropy(
                logits, wanted, weight=self.weights, reduction="sum"
            )
            part = part / whole
            for name, far in apart.items():
                part = part + self._weight(name) * far.sum() / len(rows)
                away[name] += float(far.detach().sum()) / len(rows)
            if learns:
                part.backward()
                self.optimizer.collect()
            loss += float(part.detach())
            right += float((logits.argmax(-1) == wanted).sum())
        return {"loss": loss, "accuracy": right / len(rows), **away}

    def _weight(self, name: str) -> float:
        return self.beside.weights[name] if self.beside else 0.0

    def _read(
        self, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Logits of the labels, float32, and (rows,) the distances from the teacher by name."""
        if self.beside is None:
            return self.model(**batch).logits.float(), {}
        said, apart = self.beside.read(self.model, batch)
        return said.logits.float(), apart


def labels_of(dataset: Dataset) -> tuple[str, ...]:
    """The labels of the training rows, sorted; both training and serving count by them.

    Raises BadRecipe if the answers aren't labels, BadData if there is one label only.
    """
    if dataset.task.kind != "classification":
        raise BadRecipe(
            f"train.objective=classify is for labels, and the task is {dataset.task.kind}.",
            "Set task.kind to classification if the answers are labels, or train with sft.",
        )
    labels = tuple(sorted({row.answer for row in dataset.split.train}))
    if len(labels) < 2:
        raise BadData(
            f"All training rows have the label {''.join(labels)!r}; nothing is to be told apart.",
            "Add rows with another label.",
        )
    return labels


def class_weights(targets: Sequence[int], labels: int, kind: str) -> torch.Tensor:
    """(labels,) weights: all 1, or balanced as scikit-learn's, n / (labels * rows of the label)."""
    if kind == "none":
        return torch.ones(labels)
    counts = Counter(targets)
    return torch.tensor(
        [len(targets) / (labels * max(counts[label], 1)) for label in range(labels)]
    )


def _examples(given: Given) -> tuple[list[Sample], list[Sample]]:
    labels = {label: number for number, label in enumerate(labels_of(given.dataset))}
    split = given.dataset.split
    known = [row for row in split.validation if row.answer in labels]
    if strange := len(split.validation) - len(known):
        say(f"Left out {strange} validation rows: no training row has their label.")
    return _samples(split.train, labels, given), _samples(known, labels, given)


def _samples(rows: Sequence[Row], labels: Mapping[str, int], given: Given) -> list[Sample]:
    texts = encode_texts([said(row.prompt) for row in rows], given)
    return [Sample((text,), labels[row.answer]) for text, row in zip(texts, rows, strict=True)]


def _prepare(
    given: Given, run: Run, rows: Sequence[Sample], validation: Sequence[Sample]
) -> Classifying:
    settings, labels = given.recipe.train, labels_of(given.dataset)
    assert isinstance(settings.objective, Classify)
    dtype = training_dtype(given.recipe.model.dtype)
    model = headed_model(given.base, labels, given.tokenizer, dtype)
    kind = settings.objective.class_weights
    weights = class_weights([row.target for row in rows], len(labels), kind).to(model.device)
    teacher = teacher_of(settings.objective, given)
    model = with_method(model, settings, "SEQ_CLS")
    if settings.objective.hidden:
        lead_into(model, teacher.config.hidden_size, settings.seed)
    return begun(
        Classifying,
        model,
        given,
        (rows, validation),
        weights=weights,
        beside=beside(model, teacher, settings.objective),
    )


def _save(folder: Path, plan: Classifying, given: Given, lineage: Mapping[str, Any]) -> Artifact:
    labels = labels_of(given.dataset)
    drop_matrix(plan.model)
    trained = SequenceClassifier(plan.model, given.tokenizer, labels, most_tokens(given))
    return save_classifier(folder, trained, given.base, lineage)


CLASSIFY = Course(_examples, _prepare, _save)
