"""What is trained that is no language model: the tables, and what doesn't go together."""

from burnish.core.recipe import Recipe
from burnish.models.local import LocalModel
from burnish.train import seq2seq, vision
from burnish.train.classify import CLASSIFY
from burnish.train.course import Course
from burnish.train.embed import EMBED
from burnish.train.language import LANGUAGE
from burnish.train.token_classify import TOKEN_CLASSIFY
from burnish.train.valuing import VALUING

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
