"""What is trained that is no language model: the tables, and what doesn't go together."""

from burnish.core.recipe.recipe import Recipe
from burnish.models.local_models import LocalModel
from burnish.train.loop.trainer import Trainer
from burnish.train.trainers import seq2seq, vision
from burnish.train.trainers.causal_lm import CAUSAL_LM_TRAINER
from burnish.train.trainers.embedding import EMBEDDING_TRAINER
from burnish.train.trainers.reward_model import REWARD_TRAINER
from burnish.train.trainers.sequence_classification import CLASSIFIER_TRAINER
from burnish.train.trainers.token_classification import TOKEN_CLASSIFIER_TRAINER

#: `train.objective.kind` → how it is trained; all other objectives train language models.
TRAINERS: dict[str, Trainer] = {
    "classify": CLASSIFIER_TRAINER,
    "token_classify": TOKEN_CLASSIFIER_TRAINER,
    "embed": EMBEDDING_TRAINER,
    "reward": REWARD_TRAINER,
    "seq2seq": seq2seq.SEQ2SEQ_TRAINER,
}


def trainer_for(recipe: Recipe, base: LocalModel) -> Trainer:
    """How this recipe trains this model."""
    if base.kind == "vision":
        return vision.VISION_TRAINER
    return TRAINERS.get(recipe.train.objective.kind, CAUSAL_LM_TRAINER)


def check_supported(recipe: Recipe, base: LocalModel) -> None:
    """Raise BadRecipe if the objective isn't for such a model."""
    seq2seq.check_supported(recipe, base)
    vision.check_supported(recipe, base)
