"""The teacher of an encoder: its layers or its self-attention, matched on the same batches."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel

from burnish.core.errors import BadRecipe
from burnish.core.recipe.objectives import Classify
from burnish.models.find_artifact import find_artifact
from burnish.models.heads.classifier import load_classifier
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model
from burnish.models.pruning.depth import capture_outputs, hidden_states_of
from burnish.train.adapters.registry import language_model
from burnish.train.distillation.attention_relations import (
    RelationPair,
    padded_divergence,
    relation_pair,
)
from burnish.train.distillation.hidden_states import match_layers, relative_distances
from burnish.train.distillation.teacher_logits import have_same_tokens
from burnish.train.loop.context import TrainContext


@dataclass(frozen=True, slots=True)
class EncoderTeacher:
    """A loaded teacher and what is compared: `layers` (the student's, as many of the teacher's) and
    `relations`, either of which may be missing. `weights` are those of the distances by name."""

    teacher: Any
    layers: tuple[Sequence[torch.nn.Module], Sequence[torch.nn.Module]]
    relations: RelationPair | None
    weights: Mapping[str, float]

    def forward_with_student(
        self, model: Any, batch: Mapping[str, torch.Tensor]
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return the student's output on a padded batch, and its distances (rows,) from the
        teacher by name."""
        with ExitStack() as stack:
            student_states = stack.enter_context(capture_outputs(self.layers[0], hidden_states_of))
            student_relations = (
                stack.enter_context(self.relations.student.capture()) if self.relations else []
            )
            output = model(**batch)
        with torch.no_grad(), ExitStack() as stack:
            teacher_states = stack.enter_context(capture_outputs(self.layers[1], hidden_states_of))
            teacher_relations = (
                stack.enter_context(self.relations.teacher.capture()) if self.relations else []
            )
            self.teacher(**batch)
        mask = batch["attention_mask"]
        distances = {}
        if student_states:
            per_token = relative_distances(language_model(model), student_states, teacher_states)
            distances["hidden"] = (per_token * mask).sum(1) / mask.sum(1)
        if self.relations:
            distances["attention"] = padded_divergence(
                self.relations, student_relations, teacher_relations, mask
            )
        return output, distances


def load_encoder_teacher(settings: Classify, context: TrainContext) -> Any:
    """Load the teacher in float32; return None if the recipe matches nothing with it.

    Raises BadRecipe if none is named or the two can't be compared, NotFound if it isn't here.
    """
    name = settings.teacher
    if not settings.matches_internals:
        return None
    if not name:
        raise BadRecipe(
            "The student's layers are to be matched with a teacher's, and no teacher is named.",
            "Set train.objective.teacher to a run or a model of this machine.",
        )
    # Loading draws random numbers; what is learned must not depend on it.
    with torch.random.fork_rng():
        teacher, tokenizer = _load_encoder(name)
    if not have_same_tokens(tokenizer, context.tokenizer):
        raise BadRecipe(
            f"{name} has another tokenizer than the student, so their tokens aren't the same.",
            "Name a teacher with the student's tokens, or set train.objective.hidden=0 and "
            "train.objective.attention.weight=0.",
        )
    return teacher


def encoder_teacher(model: Any, teacher: Any, settings: Classify) -> EncoderTeacher | None:
    """Pair a student with its loaded teacher; return None without one. Raises BadRecipe for layers
    that can't be compared."""
    if teacher is None:
        return None
    teacher, student = teacher.to(model.device, model.dtype).eval(), language_model(model)
    name, attention = settings.teacher, settings.attention
    layers = match_layers(student, teacher, name) if settings.hidden else ((), ())
    pair = relation_pair(student, teacher, attention, name) if attention.weight else None
    return EncoderTeacher(
        teacher, layers, pair, {"hidden": settings.hidden, "attention": attention.weight}
    )


def _load_encoder(name: str) -> tuple[Any, Any]:
    artifact = find_artifact(name)
    if artifact and artifact.kind == "classifier":
        classifier = load_classifier(artifact)
        return classifier.model, classifier.tokenizer
    if artifact and artifact.kind != "embedder":
        raise BadRecipe(
            f"{name} has no encoder that reads texts as the student does.",
            "Name a run of train.objective=classify or embed, or a model.",
        )
    base = find_model(name)
    encoder: Any = AutoModel.from_pretrained(base.path, local_files_only=True)
    return encoder, load_tokenizer(base)
