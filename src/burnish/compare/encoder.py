"""The encoder route: a small embedding model with a classification head, fully fine-tuned.

It lies between the linear classifier on its vectors, which takes seconds, and a fine-tuned language
model.
"""

import math

from burnish.core.errors import BadRecipe
from burnish.core.recipe.methods import Full
from burnish.core.recipe.objectives import Classify, TokenClassify
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.support import goes_together
from burnish.core.recipe.train import Train
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.train.cached_run import train_cached

#: Settings for small encoders; a new head needs some steps however few the rows are.
_BATCH, _EPOCHS, _LEAST_STEPS, _RATE = 32, 4, 200, 3e-4

#: Task → the encoder's training objective.
_OBJECTIVES = {"classification": Classify(), "spans": TokenClassify()}


def train_encoder(recipe: Recipe, dataset: Dataset) -> Run:
    """Return the run whose artifact is `rag.embedder` with a head, fine-tuned on these rows.

    Raises BadRecipe if the answers are neither labels nor spans, NotFound without the embedding
    model.
    """
    if dataset.task.kind not in _OBJECTIVES:
        raise BadRecipe(
            f"The route `encoder` needs labels or spans; the task is {dataset.task.kind}.",
            "Leave it out of compare.routes, or set task.kind to classification.",
        )
    steps = max(math.ceil(len(dataset.split.train) / _BATCH), 1)
    settings = Train(
        objective=_OBJECTIVES[dataset.task.kind],
        method=Full(),
        learning_rate=_RATE,
        epochs=max(_EPOCHS, math.ceil(_LEAST_STEPS / steps)),
        batch_size=_BATCH,
        checkpoint_every=500,
        seed=recipe.train.seed,
        threads=recipe.train.threads,
        tracker=recipe.train.tracker,
    )
    model = recipe.model.model_copy(update={"name": recipe.rag.embedder})
    return train_cached(recipe.model_copy(update={"model": model, "train": settings}), dataset)


def refuse_encoders(recipe: Recipe) -> None:
    """Raise BadRecipe if the recipe trains no language model."""
    if not goes_together("run", "compare", "objective", recipe.train.objective.kind):
        raise BadRecipe(
            f"compare fine-tunes a language model; train.objective is "
            f"{recipe.train.objective.kind}.",
            "Leave train.objective out. For labels, name the routes: "
            "--set compare.routes=[base,few_shot,classifier,encoder,fine_tuned]",
        )
