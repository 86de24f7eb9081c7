"""An encoder that reads beside its student, whose self-attention is held to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel

from burnish.core.errors import BadRecipe
from burnish.core.relations import RelationsOf
from burnish.engines.local import find_artifact
from burnish.models.classifier import load_classifier
from burnish.models.load import load_tokenizer
from burnish.models.local import find_model
from burnish.train.adapters import language_model
from burnish.train.course import Given
from burnish.train.lessons import same_tokens
from burnish.train.relations import Held, held, padded_divergence


@dataclass(frozen=True, slots=True)
class Beside:
    """The teacher, and which layers of both are compared."""

    teacher: Any
    held: Held

    def read(self, model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[Any, torch.Tensor]:
        """What the student says of a padded batch, and (rows,) how far its relations are from the
        teacher's, times their weight."""
        with self.held.ours.kept() as ours:
            said = model(**batch)
        with torch.no_grad(), self.held.theirs.kept() as theirs:
            self.teacher(**batch)
        apart = padded_divergence(self.held, ours, theirs, batch["attention_mask"])
        return said, self.held.weight * apart


def beside(model: Any, settings: RelationsOf, given: Given) -> Beside | None:
    """The teacher beside a student; None if none is asked for.

    Raises BadRecipe if none is named or the two can't be compared, NotFound if it isn't here.
    """
    if not settings.weight:
        return None
    name = settings.teacher
    if not name:
        raise BadRecipe(
            "Self-attention is to be held to a teacher's, and no teacher is named.",
            "Set train.objective.attention.teacher to a run or a model of this machine.",
        )
    # Loading draws random numbers; what is learnt must not depend on it.
    with torch.random.fork_rng():
        teacher, tokenizer = _loaded(name)
    if not same_tokens(tokenizer, given.tokenizer):
        raise BadRecipe(
            f"{name} has another tokenizer than the student, so their tokens aren't the same.",
            "Set train.objective.attention.weight=0, or name a teacher with the student's tokens.",
        )
    teacher = teacher.to(model.device, model.dtype).eval()
    return Beside(teacher, held(language_model(model), teacher, settings, name))


def _loaded(name: str) -> tuple[Any, Any]:
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
