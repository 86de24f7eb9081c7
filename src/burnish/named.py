"""What a verb was told, looked for before anything heavy is loaded.

PyTorch and transformers take seconds to load; whoever has mistyped a name is answered without them.
"""

from pathlib import Path

from burnish.core.errors import NotFound
from burnish.core.folders import refuse_missing
from burnish.core.recipe import Recipe
from burnish.core.runs import find_run
from burnish.models.local import FACTS, find_model


def ready(recipe: Recipe, source: str | None = None) -> Recipe:
    """The recipe, if the files of its rows are there, and its model, or `source` in its place.
    Raises NotFound."""
    for file in (*recipe.data.train, *recipe.data.validation, *recipe.data.test):
        refuse_missing(file)
    refuse_unknown(source or recipe.model.name)
    return recipe


def refuse_unknown(*sources: str) -> None:
    """Raise NotFound unless each is the name of a run or a model, or the folder of an artifact."""
    for source in sources:
        if not (Path(source) / FACTS).exists():
            try:
                find_run(source)
            except NotFound:
                find_model(source)
