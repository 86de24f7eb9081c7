"""A student whose layers come to hold what its teacher's do.

At every learnt place each layer of the student is held to a layer of the teacher, evenly apart with
the first and the last one (as `distil.layers` cuts): the hints of FitNets (Romero et al. 2015,
arXiv:1412.6550), with the layer map of TinyBERT (Jiao et al. 2020, arXiv:1909.10351). The distance
is squared and relative to the teacher's own length, so that one weight serves all models. Where the
widths differ, one learnt matrix leads from the student's space into the teacher's; it is thrown
away when the student is saved. Attention of the last layer may be held as well (train.relations).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from burnish.core.errors import BadRecipe
from burnish.core.recipe.objectives import Distillation
from burnish.core.recipe.train import Train
from burnish.models.artifact import find_base
from burnish.models.find_artifact import find_artifact
from burnish.models.local_models import find_model
from burnish.models.pruning.depth import evenly, layers_of, outputs_of, states_of
from burnish.train.adapters.registry import language_model
from burnish.train.batching.examples import Example
from burnish.train.batching.packed import Batch
from burnish.train.distillation.attention_relations import Held, Projections, flat_divergence, held
from burnish.train.distillation.teacher_logits import (
    same_tokens,
    teacher_beside,
    teachers_tokenizer,
)
from burnish.train.loop.language_model import Fit
from burnish.train.objectives.registry import Judge, Judgement, predicting

#: What the matrix is called among the student's weights while it learns.
_MATRIX = "into_teacher"


def add_matrix(model: Any, settings: Train) -> None:
    """Give a student of another width the matrix that leads into its teacher's space."""
    objective = settings.objective
    if not isinstance(objective, Distillation) or not objective.hidden or not objective.teacher:
        return
    theirs = _width(_config_of(objective.teacher))
    lead_into(model, theirs, settings.seed)


def lead_into(model: Any, theirs: int, seed: int) -> None:
    """Give a student whose width isn't `theirs` a matrix that leads there, drawn by `seed`."""
    language = language_model(model)
    ours = _width(language.config)
    if ours != theirs:
        weight = next(language.parameters())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            matrix = torch.nn.Linear(ours, theirs, bias=False)
        language.add_module(_MATRIX, matrix.to(weight.device, weight.dtype))


def drop_matrix(model: Any) -> None:
    """Take the matrix away again."""
    language = language_model(model)
    if hasattr(language, _MATRIX):
        delattr(language, _MATRIX)


@dataclass(frozen=True, slots=True)
class Imitation:
    """A student and its teacher in memory, with the layers that are compared: `ours` and `theirs`
    as many as one another, none where hidden states aren't; `held` is None where attention
    isn't."""

    student: Any
    teacher: Any
    ours: Sequence[torch.nn.Module]
    theirs: Sequence[torch.nn.Module]
    weight: float
    held: Held | None

    @property
    def projections(self) -> tuple[Projections | None, Projections | None]:
        """Of the student and of the teacher, where attention is compared."""
        return (self.held.ours, self.held.theirs) if self.held else (None, None)

    def judged(self, judge: Judge, batch: Batch) -> Judgement:
        """What the objective says, and each distance times its weight."""
        students, teachers = self.projections
        with _states(self.ours, batch) as ours, _kept(students) as mine:
            said = judge(self.student, batch)
        with torch.no_grad(), _states(self.theirs, batch) as theirs, _kept(teachers) as yours:
            predicting(self.teacher, batch)
        loss, measured = said.loss, dict(said.measured)
        learnt = batch.weights > 0
        if self.ours:
            places = distances(self.student, ours, theirs)
            loss = loss + self.weight * (places @ batch.weights)
            measured["hidden"] = places.detach()[learnt]
        if self.held:
            # A row weighs as much as its learnt places do, as in all else that is summed here.
            places = flat_divergence(self.held, mine, yours, batch)[batch.owners]
            loss = loss + self.held.weight * (places @ batch.weights)
            measured["attention"] = places.detach()[learnt]
        return Judgement(loss, measured)


def with_imitation(plan: Fit, tokenizer: PreTrainedTokenizerBase) -> Fit:
    """The plan whose student is held to its teacher's layers; as it is if the recipe doesn't say
    so. Raises BadRecipe where places or layers can't be compared."""
    settings = plan.settings.objective
    if not isinstance(settings, Distillation) or not settings.imitates:
        return plan
    if not same_tokens(teachers_tokenizer(settings.teacher), tokenizer):
        raise BadRecipe(
            f"{settings.teacher} has another tokenizer than the student, so their hidden states "
            "stand at other places.",
            "Set train.objective.hidden=0 and train.objective.attention.weight=0: the "
            "distributions are matched by the text.",
        )
    imitation = _imitation(plan.language, teacher_beside(plan, settings.teacher), settings)
    plain = plan.objective.judge_of

    def judge_of(model: PreTrainedModel, rows: Sequence[Example], most: int) -> Judge:
        judge = plain(model, rows, most)
        return lambda model, batch: imitation.judged(judge, batch)

    return replace(plan, objective=replace(plan.objective, judge_of=judge_of))


def _imitation(student: Any, teacher: Any, settings: Distillation) -> Imitation:
    """The layers of both are found here, once."""
    name, relations = settings.teacher, settings.attention
    ours, theirs = matched_layers(student, teacher, name) if settings.hidden else ((), ())
    pair = held(student, teacher, relations, name) if relations.weight else None
    return Imitation(student, teacher, ours, theirs, settings.hidden, pair)


def matched_layers(
    student: Any, teacher: Any, name: str
) -> tuple[Sequence[torch.nn.Module], Sequence[torch.nn.Module]]:
    """All layers of a student, and as many of its teacher's, evenly apart with the first and the
    last one; `name` is the teacher's. Raises BadRecipe if it has fewer."""
    ours, total = list(layers_of(student)), len(layers_of(teacher))
    if len(ours) > total:
        raise BadRecipe(
            f"The student has {len(ours)} layers and {name} {total}; there is none to hold each of "
            "them to.",
            "Set train.objective.hidden=0, or name a deeper teacher.",
        )
    return ours, [layers_of(teacher)[number] for number in evenly(len(ours), total)]


def distances(
    student: Any, ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]
) -> torch.Tensor:
    """(layers, ..., width) of both → (...): how far a student's states are from its teacher's, the
    mean over the layers, through the matrix where it has one."""
    matrix = getattr(student, _MATRIX, torch.nn.Identity())
    pairs = zip(ours, theirs, strict=True)
    return torch.stack([distance(matrix(one), other) for one, other in pairs]).mean(0)


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """(..., width) of both → (...): the squared distance in squared lengths of `theirs`."""
    ours, theirs = ours.float(), theirs.float()
    return (ours - theirs).square().sum(-1) / theirs.square().sum(-1).clamp_min(1e-6)


def _states(
    layers: Sequence[torch.nn.Module], batch: Batch
) -> AbstractContextManager[list[torch.Tensor]]:
    """What layers give (places, width) at the batch's learnt places, as a pass goes on."""

    def at_places(states: Any) -> torch.Tensor:
        return states_of(states)[0].index_select(0, batch.predicts)

    return outputs_of(layers, at_places)


def _kept(projections: Projections | None) -> AbstractContextManager[list[torch.Tensor]]:
    return projections.kept() if projections else nullcontext([])


def _config_of(source: str) -> Any:
    artifact = find_artifact(source)
    if artifact is None:
        folder = find_model(source).path
    else:
        folder = artifact.path if artifact.kind == "full" else find_base(artifact).path
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def _width(config: Any) -> int:
    return int(config.get_text_config().hidden_size)
