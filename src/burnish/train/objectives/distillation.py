"""Knowledge distillation: the teacher's distributions, answers of the student, hidden states."""

from transformers import PreTrainedModel

from burnish.core.recipe.objectives import Distillation
from burnish.train.batching.examples import CrossTokenizerExample, sft_examples
from burnish.train.batching.packed import PackedBatch
from burnish.train.distillation.hidden_states import MatchHiddenStates
from burnish.train.distillation.on_policy import OnPolicyAnswers
from burnish.train.distillation.teacher_logits import TeacherLogits
from burnish.train.forward.path import target_states
from burnish.train.loop.language_model import Objective, Stage
from burnish.train.losses.batch_loss import BatchLoss
from burnish.train.losses.cross_tokenizer import cross_tokenizer_distribution, cross_tokenizer_loss
from burnish.train.losses.divergence import LinearDivergence, teacher_distribution
from burnish.train.objectives.base import batch_only, target_weight


def distillation(settings: Distillation) -> Objective:
    """Build the objective `distill`."""

    def compute_loss(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        hidden, head = target_states(model, batch)
        targets, is_target = (batch.targets, batch.weights), batch.weights > 0
        where = (batch.examples, len(batch.targets), batch.ids.device)
        if isinstance(batch.examples[0], CrossTokenizerExample):
            teacher = cross_tokenizer_distribution(*where)
            loss, entropies, divergence = cross_tokenizer_loss(
                hidden, head, targets, teacher, settings
            )
            return BatchLoss(
                loss, {"cross_entropy": entropies[is_target], "divergence": divergence}
            )
        loss, entropies, divergence = LinearDivergence.apply(
            hidden, head, targets, teacher_distribution(*where), settings
        )
        metrics = {"cross_entropy": entropies[is_target], "divergence": divergence[is_target]}
        return BatchLoss(loss, metrics)

    return Objective(
        sft_examples, target_weight, batch_only(compute_loss), stages=_stages(settings)
    )


def _stages(settings: Distillation) -> tuple[Stage, ...]:
    stages: list[Stage] = [TeacherLogits(settings)]
    if settings.on_policy:
        stages.append(OnPolicyAnswers(settings))
    if settings.matches_internals:
        stages.append(MatchHiddenStates(settings))
    return tuple(stages)
