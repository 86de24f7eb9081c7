"""The trainer of `train.objective: classify`: a model with a classification head."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import BadData, BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.objectives import Classify
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.engines.heads.base import user_text
from burnish.models.artifact import Artifact
from burnish.models.heads.classifier import SequenceClassifier, build_head_model, save_classifier
from burnish.models.load import training_dtype
from burnish.train.distillation.encoder_teacher import (
    EncoderTeacher,
    encoder_teacher,
    load_encoder_teacher,
)
from burnish.train.distillation.hidden_states import add_projection, drop_projection
from burnish.train.loop.trainer import Trainer
from burnish.train.trainers.base import (
    EncoderExample,
    EncoderModule,
    apply_adapter,
    batch_by_length,
    encode_texts,
    max_text_tokens,
    module_fields,
    pad_to_device,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierModule(EncoderModule[EncoderExample]):
    """A classifier in training; `weights` (labels,) are those of the labels' losses."""

    weights: torch.Tensor
    teacher: EncoderTeacher | None = None

    def _compute_metrics(self, rows: Sequence[EncoderExample], learns: bool) -> dict[str, float]:
        """Return the cross-entropy, averaged over the rows by their labels' weights (as torch's),
        and the accuracy; with a teacher also the mean distances from it."""
        targets = torch.tensor([row.target for row in rows], device=self.weights.device)
        texts, total_weight = [row.texts[0] for row in rows], float(self.weights[targets].sum())
        loss = correct = 0.0
        mean_distances: dict[str, float] = defaultdict(float)
        for indices in batch_by_length(texts, self.settings.micro_batch_tokens):
            batch = pad_to_device(
                [texts[index] for index in indices], self.tokenizer, targets.device
            )
            logits, distances = self._forward(batch)
            labels = targets[indices]
            batch_loss = torch.nn.functional.cross_entropy(
                logits, labels, weight=self.weights, reduction="sum"
            )
            batch_loss = batch_loss / total_weight
            for name, distance in distances.items():
                batch_loss = batch_loss + self._distance_weight(name) * distance.sum() / len(rows)
                mean_distances[name] += float(distance.detach().sum()) / len(rows)
            if learns:
                batch_loss.backward()
                self.optimizer.accumulate()
            loss += float(batch_loss.detach())
            correct += float((logits.argmax(-1) == labels).sum())
        return {"loss": loss, "accuracy": correct / len(rows), **mean_distances}

    def _distance_weight(self, name: str) -> float:
        return self.teacher.weights[name] if self.teacher else 0.0

    def _forward(
        self, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Return the logits of the labels, float32, and (rows,) the distances from the teacher."""
        if self.teacher is None:
            return self.model(**batch).logits.float(), {}
        output, distances = self.teacher.forward_with_student(self.model, batch)
        return output.logits.float(), distances


def collect_labels(dataset: Dataset) -> tuple[str, ...]:
    """Return the labels of the training rows, sorted; training and serving number them so.

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
            f"All training rows have the label {''.join(labels)!r}: there is nothing to classify.",
            "Add rows with another label.",
        )
    return labels


def class_weights(targets: Sequence[int], labels: int, kind: str) -> torch.Tensor:
    """Return (labels,) weights: all 1, or balanced as scikit-learn's, n / (labels seen * rows of
    the label).

    A label that no row has, such as a tag inside spans of one word, weighs as much as the rarest
    one that was seen: otherwise a single validation row would outweigh all others.
    """
    if kind == "none":
        return torch.ones(labels)
    counts = Counter(targets)
    rarest = min(counts.values())
    return torch.tensor(
        [len(targets) / (len(counts) * counts.get(label, rarest)) for label in range(labels)]
    )


class ClassifierTrainer(Trainer[EncoderExample, ClassifierModule]):
    """Trains a model with a classification head on labelled rows."""

    def tokenize(self) -> tuple[list[EncoderExample], list[EncoderExample]]:
        """Return the rows as examples, without validation rows of unknown labels."""
        labels = {
            label: number for number, label in enumerate(collect_labels(self.context.dataset))
        }
        split = self.context.dataset.split
        known = [row for row in split.validation if row.answer in labels]
        if unknown := len(split.validation) - len(known):
            say(f"Left out {unknown} validation rows: no training row has their label.")
        return self._tokenize_rows(split.train, labels), self._tokenize_rows(known, labels)

    def _tokenize_rows(
        self, rows: Sequence[Row], labels: Mapping[str, int]
    ) -> list[EncoderExample]:
        texts = encode_texts([user_text(row.prompt) for row in rows], self.context)
        return [
            EncoderExample((text,), labels[row.answer])
            for text, row in zip(texts, rows, strict=True)
        ]

    def build(
        self,
        run: Run,
        train_rows: Sequence[EncoderExample],
        validation_rows: Sequence[EncoderExample],
    ) -> ClassifierModule:
        """Load the model with a new head, and the teacher if the recipe matches its layers."""
        context, objective = self.context, _settings(self.context.recipe)
        settings, labels = context.recipe.train, collect_labels(context.dataset)
        dtype = training_dtype(context.recipe.model.dtype)
        model = build_head_model(context.base, labels, context.tokenizer, dtype)
        targets = [row.target for row in train_rows]
        weights = class_weights(targets, len(labels), objective.class_weights).to(model.device)
        teacher = load_encoder_teacher(objective, context)
        model = apply_adapter(model, settings, "SEQ_CLS")
        if objective.hidden:
            add_projection(model, teacher.config.hidden_size, settings.seed)
        return ClassifierModule(
            **module_fields(model, context, train_rows, validation_rows),
            weights=weights,
            teacher=encoder_teacher(model, teacher, objective),
        )

    def save(self, folder: Path, module: ClassifierModule, lineage: Mapping[str, Any]) -> Artifact:
        """Write the classifier with its labels."""
        context, labels = self.context, collect_labels(self.context.dataset)
        drop_projection(module.model)
        classifier = SequenceClassifier(
            module.model, context.tokenizer, labels, max_text_tokens(context)
        )
        return save_classifier(folder, classifier, context.base, lineage)


def _settings(recipe: Recipe) -> Classify:
    assert isinstance(recipe.train.objective, Classify)
    return recipe.train.objective
