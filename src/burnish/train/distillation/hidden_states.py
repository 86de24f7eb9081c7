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
from burnish.models.pruning.depth import capture_outputs, evenly_spaced, hidden_states_of, layers_of
from burnish.train.adapters.registry import language_model
from burnish.train.batching.examples import Example
from burnish.train.batching.packed import PackedBatch
from burnish.train.distillation.attention_relations import (
    Projections,
    RelationPair,
    packed_divergence,
    relation_pair,
)
from burnish.train.distillation.teacher_logits import (
    have_same_tokens,
    load_teacher_tokenizer,
    teacher_on_device,
)
from burnish.train.forward.path import require_packed, target_states
from burnish.train.loop.language_model import LanguageModelModule
from burnish.train.objectives.registry import BatchLoss, LossFn

#: What the matrix is called among the student's weights while it learns.
_PROJECTION = "into_teacher"


def add_projection(model: Any, settings: Train) -> None:
    """Give a student of another width the matrix that leads into its teacher's space."""
    objective = settings.objective
    if not isinstance(objective, Distillation) or not objective.hidden or not objective.teacher:
        return
    theirs = _hidden_size(_load_config(objective.teacher))
    project_to(model, theirs, settings.seed)


def project_to(model: Any, theirs: int, seed: int) -> None:
    """Give a student whose width isn't `theirs` a matrix that leads there, drawn by `seed`."""
    language = language_model(model)
    ours = _hidden_size(language.config)
    if ours != theirs:
        weight = next(language.parameters())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            matrix = torch.nn.Linear(ours, theirs, bias=False)
        language.add_module(_PROJECTION, matrix.to(weight.device, weight.dtype))


def drop_projection(model: Any) -> None:
    """Take the matrix away again."""
    language = language_model(model)
    if hasattr(language, _PROJECTION):
        delattr(language, _PROJECTION)


@dataclass(frozen=True, slots=True)
class HiddenStateMatching:
    """A student and its teacher in memory, with the layers that are compared: `ours` and `theirs`
    as many as one another, none where hidden states aren't; `held` is None where attention
    isn't."""

    student: Any
    teacher: Any
    student_layers: Sequence[torch.nn.Module]
    teacher_layers: Sequence[torch.nn.Module]
    weight: float
    relations: RelationPair | None

    @property
    def projections(self) -> tuple[Projections | None, Projections | None]:
        """Of the student and of the teacher, where attention is compared."""
        return (self.relations.student, self.relations.teacher) if self.relations else (None, None)

    def compute_loss(self, judge: LossFn, batch: PackedBatch) -> BatchLoss:
        """What the objective says, and each distance times its weight."""
        students, teachers = self.projections
        with (
            _capture_states(self.student_layers, batch) as ours,
            _capture_projections(students) as mine,
        ):
            said = judge(self.student, batch)
        with (
            torch.no_grad(),
            _capture_states(self.teacher_layers, batch) as theirs,
            _capture_projections(teachers) as yours,
        ):
            target_states(self.teacher, batch)
        loss, measured = said.loss, dict(said.metrics)
        learnt = batch.weights > 0
        if self.student_layers:
            places = relative_distances(self.student, ours, theirs)
            loss = loss + self.weight * (places @ batch.weights)
            measured["hidden"] = places.detach()[learnt]
        if self.relations:
            # A row weighs as much as its learnt places do, as in all else that is summed here.
            places = packed_divergence(self.relations, mine, yours, batch)[batch.answer_index]
            loss = loss + self.relations.weight * (places @ batch.weights)
            measured["attention"] = places.detach()[learnt]
        return BatchLoss(loss, measured)


def add_hidden_state_matching(
    plan: LanguageModelModule, tokenizer: PreTrainedTokenizerBase
) -> LanguageModelModule:
    """The plan whose student is held to its teacher's layers; as it is if the recipe doesn't say
    so. Raises BadRecipe where places or layers can't be compared."""
    settings = plan.settings.objective
    if not isinstance(settings, Distillation) or not settings.matches_internals:
        return plan
    if not have_same_tokens(load_teacher_tokenizer(settings.teacher), tokenizer):
        raise BadRecipe(
            f"{settings.teacher} has another tokenizer than the student, so their hidden states "
            "stand at other places.",
            "Set train.objective.hidden=0 and train.objective.attention.weight=0: the "
            "distributions are matched by the text.",
        )
    teacher = teacher_on_device(plan, settings.teacher)
    for model, name in ((plan.language, "the student"), (teacher, settings.teacher)):
        require_packed(model, name, "Matching a teacher's layers")
    imitation = _make_matching(plan.language, teacher, settings)
    plain = plan.objective.make_loss

    def judge_of(model: PreTrainedModel, rows: Sequence[Example], most: int) -> LossFn:
        judge = plain(model, rows, most)
        return lambda model, batch: imitation.compute_loss(judge, batch)

    return replace(plan, objective=replace(plan.objective, make_loss=judge_of))


def _make_matching(student: Any, teacher: Any, settings: Distillation) -> HiddenStateMatching:
    """The layers of both are found here, once."""
    name, relations = settings.teacher, settings.attention
    ours, theirs = match_layers(student, teacher, name) if settings.hidden else ((), ())
    pair = relation_pair(student, teacher, relations, name) if relations.weight else None
    return HiddenStateMatching(student, teacher, ours, theirs, settings.hidden, pair)


def match_layers(
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
    return ours, [layers_of(teacher)[number] for number in evenly_spaced(len(ours), total)]


def relative_distances(
    student: Any, ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]
) -> torch.Tensor:
    """(layers, ..., width) of both → (...): how far a student's states are from its teacher's, the
    mean over the layers, through the matrix where it has one."""
    matrix = getattr(student, _PROJECTION, torch.nn.Identity())
    pairs = zip(ours, theirs, strict=True)
    return torch.stack([relative_distance(matrix(one), other) for one, other in pairs]).mean(0)


def relative_distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """(..., width) of both → (...): the squared distance in squared lengths of `theirs`."""
    ours, theirs = ours.float(), theirs.float()
    return (ours - theirs).square().sum(-1) / theirs.square().sum(-1).clamp_min(1e-6)


def _capture_states(
    layers: Sequence[torch.nn.Module], batch: PackedBatch
) -> AbstractContextManager[list[torch.Tensor]]:
    """What layers give (places, width) at the batch's learnt places, as a pass goes on."""

    def at_places(states: Any) -> torch.Tensor:
        return hidden_states_of(states)[0].index_select(0, batch.predict_positions)

    return capture_outputs(layers, at_places)


def _capture_projections(
    projections: Projections | None,
) -> AbstractContextManager[list[torch.Tensor]]:
    return projections.capture() if projections else nullcontext([])


def _load_config(source: str) -> Any:
    artifact = find_artifact(source)
    if artifact is None:
        folder = find_model(source).path
    else:
        folder = artifact.path if artifact.kind == "full" else find_base(artifact).path
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def _hidden_size(config: Any) -> int:
    return int(config.get_text_config().hidden_size)
