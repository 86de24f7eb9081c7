"""Hidden-state matching: each layer of the student is held to a layer of its teacher.

At every target position the student's layers are compared with as many of the teacher's, evenly
spaced with the first and the last one (as `distill.layers` prunes): the hints of FitNets (Romero et
al. 2015, arXiv:1412.6550), with the layer map of TinyBERT (Jiao et al. 2020, arXiv:1909.10351). The
distance is squared and relative to the length of the teacher's state, so that one weight serves all
models. Where the widths differ, a trained projection maps the student's states to the teacher's
width; it is dropped when the student is saved. Self-attention relations of the last layer may be
matched as well (`distillation.attention_relations`).
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
from burnish.core.runs import Run
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
from burnish.train.loop.context import TrainContext
from burnish.train.loop.language_model import LanguageModelModule, Stage
from burnish.train.losses.batch_loss import BatchLoss, LossFn

#: The name of the projection among the student's modules while it trains.
_PROJECTION = "into_teacher"


@dataclass(frozen=True, slots=True)
class MatchHiddenStates(Stage):
    """Adds the distances between the layers of student and teacher to the objective's loss."""

    settings: Distillation

    def extend_model(self, model: Any, settings: Train) -> None:
        """Add the projection to a student of another width than its teacher's."""
        if self.settings.hidden and self.settings.teacher:
            teacher_width = _hidden_size(_load_config(self.settings.teacher))
            add_projection(model, teacher_width, settings.seed)

    def prepare(
        self, module: LanguageModelModule, context: TrainContext, run: Run
    ) -> LanguageModelModule:
        """See `match`."""
        return self.match(module, context.tokenizer)

    def match(
        self, module: LanguageModelModule, tokenizer: PreTrainedTokenizerBase
    ) -> LanguageModelModule:
        """Return the module whose loss has the distances from the teacher in it.

        Raises BadRecipe where tokens or layers can't be compared.
        """
        name = self.settings.teacher
        if not have_same_tokens(load_teacher_tokenizer(name), tokenizer):
            raise BadRecipe(
                f"{name} has another tokenizer than the student, so their hidden states belong to "
                "different tokens.",
                "Set train.objective.hidden=0 and train.objective.attention.weight=0: the "
                "distributions are matched by the text.",
            )
        teacher = teacher_on_device(module, name)
        for model, of in ((module.language, "the student"), (teacher, name)):
            require_packed(model, of, "Matching a teacher's layers")
        matching = _make_matching(module.language, teacher, self.settings)
        make_plain_loss = module.objective.make_loss

        def make_loss(model: PreTrainedModel, rows: Sequence[Example], max_tokens: int) -> LossFn:
            plain_loss = make_plain_loss(model, rows, max_tokens)
            return lambda model, batch: matching.compute_loss(plain_loss, batch)

        return replace(module, objective=replace(module.objective, make_loss=make_loss))

    def before_save(self, model: Any) -> None:
        """Remove the projection."""
        drop_projection(model)


def add_projection(model: Any, teacher_width: int, seed: int) -> None:
    """Add a projection to `teacher_width`, initialised by `seed`, unless the widths are equal."""
    language = language_model(model)
    width = _hidden_size(language.config)
    if width != teacher_width:
        weight = next(language.parameters())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            projection = torch.nn.Linear(width, teacher_width, bias=False)
        language.add_module(_PROJECTION, projection.to(weight.device, weight.dtype))


def drop_projection(model: Any) -> None:
    """Remove the projection, if there is one."""
    language = language_model(model)
    if hasattr(language, _PROJECTION):
        delattr(language, _PROJECTION)


@dataclass(frozen=True, slots=True)
class HiddenStateMatching:
    """A student and its loaded teacher with the layers that are compared: as many of one as of the
    other, none where only attention is; `relations` is None where attention isn't."""

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

    def compute_loss(self, plain_loss: LossFn, batch: PackedBatch) -> BatchLoss:
        """Return the objective's own loss plus each distance times its weight."""
        student_projections, teacher_projections = self.projections
        with (
            _capture_states(self.student_layers, batch) as student_states,
            _capture_projections(student_projections) as student_relations,
        ):
            plain = plain_loss(self.student, batch)
        with (
            torch.no_grad(),
            _capture_states(self.teacher_layers, batch) as teacher_states,
            _capture_projections(teacher_projections) as teacher_relations,
        ):
            target_states(self.teacher, batch)
        loss, metrics = plain.loss, dict(plain.metrics)
        is_target = batch.weights > 0
        if self.student_layers:
            distances = relative_distances(self.student, student_states, teacher_states)
            loss = loss + self.weight * (distances @ batch.weights)
            metrics["hidden"] = distances.detach()[is_target]
        if self.relations:
            # A row weighs as much as its targets do, as in all else that is summed here.
            per_row = packed_divergence(self.relations, student_relations, teacher_relations, batch)
            distances = per_row[batch.answer_index]
            loss = loss + self.relations.weight * (distances @ batch.weights)
            metrics["attention"] = distances.detach()[is_target]
        return BatchLoss(loss, metrics)


def _make_matching(student: Any, teacher: Any, settings: Distillation) -> HiddenStateMatching:
    """Find the layers of both, once."""
    name, attention = settings.teacher, settings.attention
    layers = match_layers(student, teacher, name) if settings.hidden else ((), ())
    pair = relation_pair(student, teacher, attention, name) if attention.weight else None
    return HiddenStateMatching(student, teacher, *layers, settings.hidden, pair)


def match_layers(
    student: Any, teacher: Any, name: str
) -> tuple[Sequence[torch.nn.Module], Sequence[torch.nn.Module]]:
    """Return all layers of a student and as many of its teacher's, evenly spaced with the first
    and the last one; `name` is the teacher's. Raises BadRecipe if the teacher has fewer."""
    student_layers, total = list(layers_of(student)), len(layers_of(teacher))
    if len(student_layers) > total:
        raise BadRecipe(
            f"The student has {len(student_layers)} layers and {name} has {total}: too few to "
            "match each of the student's with one.",
            "Set train.objective.hidden=0, or name a deeper teacher.",
        )
    numbers = evenly_spaced(len(student_layers), total)
    return student_layers, [layers_of(teacher)[number] for number in numbers]


def relative_distances(
    student: Any, student_states: Sequence[torch.Tensor], teacher_states: Sequence[torch.Tensor]
) -> torch.Tensor:
    """(layers, ..., width) of both → (...): the mean distance of a student's states from its
    teacher's over the layers, through the projection if there is one."""
    projection = getattr(student, _PROJECTION, torch.nn.Identity())
    pairs = zip(student_states, teacher_states, strict=True)
    return torch.stack([relative_distance(projection(one), other) for one, other in pairs]).mean(0)


def relative_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """(..., width) of both → (...): the squared distance over the squared length of `teacher`."""
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().sum(-1) / teacher.square().sum(-1).clamp_min(1e-6)


def _capture_states(
    layers: Sequence[torch.nn.Module], batch: PackedBatch
) -> AbstractContextManager[list[torch.Tensor]]:
    """Collect the outputs (targets, width) of layers at the batch's targets during a pass."""

    def at_targets(states: Any) -> torch.Tensor:
        return hidden_states_of(states)[0].index_select(0, batch.predict_positions)

    return capture_outputs(layers, at_targets)


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
