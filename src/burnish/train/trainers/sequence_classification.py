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
from burnish.engines.heads.base import user_text
from burnish.models.artifact import Artifact
from burnish.models.heads.classifier import SequenceClassifier, build_head_model, save_classifier
from burnish.models.load import training_dtype
from burnish.train.distillation.encoder_teacher import (
    EncoderTeacher,
    encoder_teacher,
    load_encoder_teacher,
)
from burnish.train.distillation.hidden_states import drop_projection, project_to
from burnish.train.loop.trainer import TrainContext, Trainer
from burnish.train.trainers.base import (
    EncoderExample,
    EncoderModule,
    apply_adapter,
    batch_by_length,
    build_module,
    encode_texts,
    max_text_tokens,
    pad_to_device,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierModule(EncoderModule):
    """A classification head in training; `weights` (labels,) are those of the labels' losses,
    `beside` the teacher whose layers it is held to."""

    weights: torch.Tensor
    teacher: EncoderTeacher | None = None

    def _compute_metrics(self, rows: Sequence[EncoderExample], learns: bool) -> dict[str, float]:
        """Cross-entropy, the mean over the rows by their labels' weights (as torch's), and the
        share of the rows whose likeliest label is right; beside a teacher also how far it is, the
        mean over the rows."""
        targets = torch.tensor([row.target for row in rows], device=self.weights.device)
        texts, whole = [row.texts[0] for row in rows], float(self.weights[targets].sum())
        loss = right = 0.0
        away: dict[str, float] = defaultdict(float)
        for places in batch_by_length(texts, self.settings.micro_batch_tokens):
            batch = pad_to_device(
                [texts[place] for place in places], self.tokenizer, targets.device
            )
            logits, apart = self._forward(batch)
            wanted = targets[places]
            part = torch.nn.functional.cross_entropy(
                logits, wanted, weight=self.weights, reduction="sum"
            )
            part = part / whole
            for name, far in apart.items():
                part = part + self._distance_weight(name) * far.sum() / len(rows)
                away[name] += float(far.detach().sum()) / len(rows)
            if learns:
                part.backward()
                self.optimizer.accumulate()
            loss += float(part.detach())
            right += float((logits.argmax(-1) == wanted).sum())
        return {"loss": loss, "accuracy": right / len(rows), **away}

    def _distance_weight(self, name: str) -> float:
        return self.teacher.weights[name] if self.teacher else 0.0

    def _forward(
        self, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Logits of the labels, float32, and (rows,) the distances from the teacher by name."""
        if self.teacher is None:
            return self.model(**batch).logits.float(), {}
        said, apart = self.teacher.forward_with_student(self.model, batch)
        return said.logits.float(), apart


def collect_labels(dataset: Dataset) -> tuple[str, ...]:
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
    """(labels,) weights: all 1, or balanced as scikit-learn's, n / (labels seen * rows of the
    label). A label that no row has, such as a tag inside spans of one word, weighs as much as the
    rarest one that was seen: a single row to validate would outweigh all others else."""
    if kind == "none":
        return torch.ones(labels)
    counts = Counter(targets)
    rarest = min(counts.values())
    return torch.tensor(
        [len(targets) / (len(counts) * counts.get(label, rarest)) for label in range(labels)]
    )


def _tokenize(given: TrainContext) -> tuple[list[EncoderExample], list[EncoderExample]]:
    labels = {label: number for number, label in enumerate(collect_labels(given.dataset))}
    split = given.dataset.split
    known = [row for row in split.validation if row.answer in labels]
    if strange := len(split.validation) - len(known):
        say(f"Left out {strange} validation rows: no training row has their label.")
    return _tokenize_rows(split.train, labels, given), _tokenize_rows(known, labels, given)


def _tokenize_rows(
    rows: Sequence[Row], labels: Mapping[str, int], given: TrainContext
) -> list[EncoderExample]:
    texts = encode_texts([user_text(row.prompt) for row in rows], given)
    return [
        EncoderExample((text,), labels[row.answer]) for text, row in zip(texts, rows, strict=True)
    ]


def _build(
    given: TrainContext,
    run: Run,
    rows: Sequence[EncoderExample],
    validation: Sequence[EncoderExample],
) -> ClassifierModule:
    settings, labels = given.recipe.train, collect_labels(given.dataset)
    assert isinstance(settings.objective, Classify)
    dtype = training_dtype(given.recipe.model.dtype)
    model = build_head_model(given.base, labels, given.tokenizer, dtype)
    kind = settings.objective.class_weights
    weights = class_weights([row.target for row in rows], len(labels), kind).to(model.device)
    teacher = load_encoder_teacher(settings.objective, given)
    model = apply_adapter(model, settings, "SEQ_CLS")
    if settings.objective.hidden:
        project_to(model, teacher.config.hidden_size, settings.seed)
    return build_module(
        ClassifierModule,
        model,
        given,
        (rows, validation),
        weights=weights,
        beside=encoder_teacher(model, teacher, settings.objective),
    )


def _save(
    folder: Path, plan: ClassifierModule, given: TrainContext, lineage: Mapping[str, Any]
) -> Artifact:
    labels = collect_labels(given.dataset)
    drop_projection(plan.model)
    trained = SequenceClassifier(plan.model, given.tokenizer, labels, max_text_tokens(given))
    return save_classifier(folder, trained, given.base, lineage)


CLASSIFIER_TRAINER = Trainer(_tokenize, _build, _save)
