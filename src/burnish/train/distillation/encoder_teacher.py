"""An encoder that reads beside its student, which is held to its layers or its self-attention."""

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
from burnish.train.loop.trainer import TrainContext


@dataclass(frozen=True, slots=True)
class EncoderTeacher:
    """The teacher, and what of both is compared: `layers` (the student's, the teacher's, as many)
    and `held`, either of which may be missing. `weights` are those of the distances by name."""

    teacher: Any
    layers: tuple[Sequence[torch.nn.Module], Sequence[torch.nn.Module]]
    relations: RelationPair | None
    weights: Mapping[str, float]

    def forward_with_student(
        self, model: Any, batch: Mapping[str, torch.Tensor]
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """What the student says of a padded batch, and (rows,) how far it is from the teacher, by
        the name of what is compared."""
        with ExitStack() as during:
            ours = during.enter_context(capture_outputs(self.layers[0], hidden_states_of))
            mine = during.enter_context(self.relations.student.capture()) if self.relations else []
            said = model(**batch)
        with torch.no_grad(), ExitStack() as during:
            theirs = during.enter_context(capture_outputs(self.layers[1], hidden_states_of))
            yours = during.enter_context(self.relations.teacher.capture()) if self.relations else []
            self.teacher(**batch)
        mask = batch["attention_mask"]
        apart = {}
        if ours:
            places = relative_distances(language_model(model), ours, theirs)
            apart["hidden"] = (places * mask).sum(1) / mask.sum(1)
        if self.relations:
            apart["attention"] = padded_divergence(self.relations, mine, yours, mask)
        return said, apart


def load_encoder_teacher(settings: Classify, given: TrainContext) -> Any:
    """The encoder beside a student, float32; None if none is asked for.

    Raises BadRecipe if none is named or the two can't be compared, NotFound if it isn't here.
    """
    name = settings.teacher
    if not settings.matches_internals:
        return None
    if not name:
        raise BadRecipe(
            "A student is to be held to a teacher's layers, and no teacher is named.",
            "Set train.objective.teacher to a run or a model of this machine.",
        )
    # Loading draws random numbers; what is learnt must not depend on it.
    with torch.random.fork_rng():
        teacher, tokenizer = _load_encoder(name)
    if not have_same_tokens(tokenizer, given.tokenizer):
        raise BadRecipe(
            f"{name} has another tokenizer than the student, so their tokens aren't the same.",
            "Name a teacher with the student's tokens, or set train.objective.hidden=0 and "
            "train.objective.attention.weight=0.",
        )
    return teacher


def encoder_teacher(model: Any, teacher: Any, settings: Classify) -> EncoderTeacher | None:
    """The teacher beside a student; None if there is none. Raises BadRecipe for layers that can't
    be compared."""
    if teacher is None:
        return None
    teacher, student = teacher.to(model.device, model.dtype).eval(), language_model(model)
    name, relations = settings.teacher, settings.attention
    layers = match_layers(student, teacher, name) if settings.hidden else ((), ())
    pair = relation_pair(student, teacher, relations, name) if relations.weight else None
    return EncoderTeacher(
        teacher, layers, pair, {"hidden": settings.hidden, "attention": relations.weight}
    )


def _load_encoder(name: str) -> tuple[Any, Any]:
    artifact = find_artifact(name)
    if artifact and artifact.kind == "classifier":
        found = load_classifier(artifact)
        return found.model, found.tokenizer
    if artifact and artifact.kind != "embedder":
        raise BadRecipe(
            f"{name} holds no encoder that reads texts as the student does.",
            "Name a run of train.objective=classify or embed, or a model.",
        )
    local = find_model(name)
    whole: Any = AutoModel.from_pretrained(local.path, local_files_only=True)
    return whole, load_tokenizer(local)
