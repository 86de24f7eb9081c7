"""The table of trainers, and what goes with which kind of model."""

from typing import Any

from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.support import require_model_support
from burnish.models.local_models import LocalModel
from burnish.train.loop.context import TrainContext
from burnish.train.loop.trainer import Trainer
from burnish.train.trainers import seq2seq, vision
from burnish.train.trainers.causal_lm import CausalLMTrainer
from burnish.train.trainers.embedding import EmbeddingTrainer
from burnish.train.trainers.reward_model import RewardModelTrainer
from burnish.train.trainers.sequence_classification import ClassifierTrainer
from burnish.train.trainers.token_classification import TokenClassifierTrainer

#: `train.objective.kind` → its trainer; all other objectives train causal language models.
TRAINERS: dict[str, type[Trainer[Any, Any]]] = {
    "classify": ClassifierTrainer,
    "token_classify": TokenClassifierTrainer,
    "embed": EmbeddingTrainer,
    "reward": RewardModelTrainer,
    "seq2seq": seq2seq.Seq2SeqTrainer,
}


def trainer_for(context: TrainContext) -> Trainer[Any, Any]:
    """Make the trainer of the context's objective and base model."""
    if context.base.kind == "vision":
        return vision.VisionTrainer(context)
    return TRAINERS.get(context.recipe.train.objective.kind, CausalLMTrainer)(context)


def check_supported(recipe: Recipe, base: LocalModel) -> None:
    """Raise BadRecipe if the recipe asks for what such a model isn't trained with."""
    require_model_support(recipe.train.choices, base.name, base.kind)
