"""What is trained that is no language model: the tables, and what doesn't go together."""

from burnish.core.recipe.recipe import Recipe
from burnish.models.local_models import LocalModel
from burnish.train.loop.trainer import Course
from burnish.train.trainers import seq2seq, vision
from burnish.train.trainers.causal_lm import LANGUAGE
from burnish.train.trainers.embedding import EMBED
from burnish.train.trainers.reward_model import VALUING
from burnish.train.trainers.sequence_classification import CLASSIFY
from burnish.train.trainers.token_classification import TOKEN_CLASSIFY

#: `train.objective.kind` → how it is trained; all other objectives train language models.
ENCODERS: dict[str, Course] = {
    "classify": CLASSIFY,
    "token_classify": TOKEN_CLASSIFY,
    "embed": EMBED,
    "reward": VALUING,
    "seq2seq": seq2seq.SEQ2SEQ,
}


def course_of(recipe: Recipe, base: LocalModel) -> Course:
    """How this recipe trains this model."""
    if base.kind == "vision":
        return vision.VISION
    return ENCODERS.get(recipe.train.objective.kind, LANGUAGE)


def refuse_misfit(recipe: Recipe, base: LocalModel) -> None:
    """Raise BadRecipe if the objective isn't for such a model."""
    seq2seq.refuse_misfit(recipe, base)
    vision.refuse_misfit(recipe, base)
