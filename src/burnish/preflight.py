"""What a verb was told, looked for before anything heavy is loaded.

PyTorch and transformers take seconds to load; whoever has mistyped a name, or has a fault in their
rows, is answered without them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.atomic import refuse_missing
from burnish.core.errors import NotFound
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import find_run
from burnish.core.settings import is_worker
from burnish.models.local_models import ARTIFACT_FILE, find_model

if TYPE_CHECKING:
    from burnish.data.load import Dataset


def check_inputs(recipe: Recipe, source: str | None = None) -> Recipe:
    """The recipe, if the files of its rows are there, and its model, or `source` in its place.
    Raises NotFound."""
    for file in (*recipe.data.train, *recipe.data.validation, *recipe.data.test):
        refuse_missing(file)
    check_known(source or recipe.model.name)
    return recipe


def load_rows(recipe: Recipe, answered: bool = True) -> "Dataset | None":
    """The recipe's rows, as `data.load.load` gives them, after what there is to say about them;
    none in a process that another one leads and sends them to. Raises BadData."""
    from burnish.data.load import load

    if is_worker():
        return None
    dataset = load(recipe, answered)
    dataset.announce()
    return dataset


def check_known(*sources: str) -> None:
    """Raise NotFound unless each is the name of a run or a model, or the folder of an artifact."""
    for source in sources:
        if (Path(source) / ARTIFACT_FILE).exists():
            continue
        try:
            find_run(source)
        except NotFound as no_run:
            if not _is_model(source):
                raise NotFound(
                    f"{no_run.what} Nor is a model of that name on this machine.",
                    f"`burnish runs` lists runs; `burnish pull {source}` fetches a model.",
                ) from no_run


def _is_model(name: str) -> bool:
    try:
        find_model(name)
    except NotFound:
        return False
    return True
