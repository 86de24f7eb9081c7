"""A student whose layers come to hold what its teacher's do.

At every learnt place each layer of the student is held to a layer of the teacher, evenly apart with
the first and the last one (as `distil.layers` cuts): the hints of FitNets (Romero et al. 2015,
arXiv:1412.6550), with the layer map of TinyBERT (Jiao et al. 2020, arXiv:1909.10351). The distance
is squared and relative to the teacher's own length, so that one weight serves all models. Where the
widths differ, one learnt matrix leads from the student's space into the teacher's; it is thrown
away when the student is saved.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from burnish.core.errors import BadRecipe
from burnish.core.teaching import Distillation
from burnish.core.training import Train
from burnish.engines.local import find_artifact
from burnish.models.artifact import find_base
from burnish.models.layers import evenly, layers_of
from burnish.models.local import find_model
from burnish.train.adapters import language_model
from burnish.train.examples import Example
from burnish.train.flat import Batch
from burnish.train.lessons import same_tokens, teacher_beside, teachers_tokenizer
from burnish.train.loop import Fit
from burnish.train.objectives import Judge, Judgement, predicting

#: The name of the matrix among the student's weights while it learns.
_MATRIX = "into_teacher"


def add_matrix(model: Any, settings: Train) -> None:
    """Give a student of another width the matrix that leads into its teacher's space."""
    objective = settings.objective
    if not isinstance(objective, Distillation) or not objective.hidden or not objective.teacher:
        return
    language = language_model(model)
    ours, theirs = _width(language.config), _width(_config_of(objective.teacher))
    if ours != theirs:
        weight = next(language.parameters())
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            matrix = torch.nn.Linear(ours, theirs, bias=False)
        language.add_module(_MATRIX, matrix.to(weight.device, weight.dtype))


def drop_matrix(model: Any) -> None:
    """Take the matrix away again."""
    language = language_model(model)
    if hasattr(language, _MATRIX):
        delattr(language, _MATRIX)


def with_imitation(plan: Fit, tokenizer: PreTrainedTokenizerBase) -> Fit:
    """The plan whose student is held to its teacher's layers; as it is if the recipe doesn't say
    so. Raises BadRecipe where places or layers can't be compared."""
    settings = plan.settings.objective
    if not isinstance(settings, Distillation) or not settings.hidden:
        return plan
    if not same_tokens(teachers_tokenizer(settings.teacher), tokenizer):
        raise BadRecipe(
            f"{settings.teacher} has another tokenizer than the student, so their hidden states "
            "stand at other places.",
            "Set train.objective.hidden=0: the distributions are matched by the text.",
        )
    teacher = teacher_beside(plan, settings.teacher)
    student, total = layers_of(plan.language), len(layers_of(teacher))
    if len(student) > total:
        raise BadRecipe(
            f"The student has {len(student)} layers and {settings.teacher} {total}; there is none "
            "to hold each of them to.",
            "Set train.objective.hidden=0, or name a deeper teacher.",
        )
    plain = plan.objective.judge_of

    def judge_of(model: PreTrainedModel, rows: Sequence[Example], most: int) -> Judge:
        judge = plain(model, rows, most)
        return lambda model, batch: _judged(judge, (model, teacher), batch, settings.hidden)

    return replace(plan, objective=replace(plan.objective, judge_of=judge_of))


def _judged(
    judge: Judge, models: tuple[PreTrainedModel, Any], batch: Batch, weight: float
) -> Judgement:
    """What the objective says, and the distance of the layers times its weight."""
    student, teacher = models
    ours_at = list(range(len(layers_of(student))))
    theirs_at = evenly(len(ours_at), len(layers_of(teacher)))
    with _states(student, ours_at, batch) as ours:
        said = judge(student, batch)
    with torch.no_grad(), _states(teacher, theirs_at, batch) as theirs:
        predicting(teacher, batch)
    matrix = getattr(student, _MATRIX, torch.nn.Identity())
    pairs = zip(ours_at, theirs_at, strict=True)
    apart = torch.stack([distance(matrix(ours[one]), theirs[other]) for one, other in pairs])
    places = apart.mean(0)
    measured = {**said.measured, "hidden": places.detach()[batch.weights > 0]}
    return Judgement(said.loss + weight * (places @ batch.weights), measured)


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """(places, width) of both → (places,): the squared distance in squared lengths of `theirs`."""
    ours, theirs = ours.float(), theirs.float()
    return (ours - theirs).square().sum(-1) / theirs.square().sum(-1).clamp_min(1e-6)


@contextmanager
def _states(model: Any, numbers: Sequence[int], batch: Batch) -> Iterator[dict[int, torch.Tensor]]:
    """What some layers give (places, width) at the batch's learnt places, as a pass goes on."""
    found: dict[int, torch.Tensor] = {}
    layers = layers_of(model)

    def hook(number: int) -> Any:
        def keep(layer: torch.nn.Module, given: Any, states: Any) -> None:
            whole = states[0] if isinstance(states, tuple) else states
            found[number] = whole[0].index_select(0, batch.predicts)

        return layers[number].register_forward_hook(keep)

    handles = [hook(number) for number in dict.fromkeys(numbers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _config_of(source: str) -> Any:
    artifact = find_artifact(source)
    if artifact is None:
        folder = find_model(source).path
    else:
        folder = artifact.path if artifact.kind == "full" else find_base(artifact).path
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def _width(config: Any) -> int:
    return int(config.get_text_config().hidden_size)
