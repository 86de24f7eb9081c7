"""Open the model that answers as teacher or judge, local or behind an endpoint."""

from typing import TYPE_CHECKING

from burnish.core.errors import BadRecipe
from burnish.core.recipe.distill import TeacherEndpoint as Settings
from burnish.core.recipe.endpoint import ModelEndpoint
from burnish.core.recipe.recipe import Recipe

if TYPE_CHECKING:
    pass
from burnish.engines.answerers.protocol import Answerer


def compute_price(settings: Settings, tokens_in: float, tokens_out: float) -> float:
    """Return the price of these tokens, in the currency of the recipe."""
    return (tokens_in * settings.price_in + tokens_out * settings.price_out) / 1e6


def open_teacher(recipe: Recipe) -> Answerer:
    """Open the teacher of a recipe. Raises BadRecipe if none is named, NotFound if it isn't
    here."""
    thinks, batch_size = recipe.distill.reasoning != "cut", recipe.evaluate.batch_size
    return open_answerer(recipe.distill.teacher, "distill.teacher", batch_size, thinks)


def open_answerer(
    settings: ModelEndpoint, section: str, batch_size: int, thinks: bool = False
) -> Answerer:
    """Open the model named in a section of a recipe; `thinks` turns on a local model's reasoning
    where possible. Raises BadRecipe if none is named, NotFound if it isn't here."""
    if not settings.model:
        raise BadRecipe(
            f"No {section.rpartition('.')[2]} is named.",
            f"Set {section}.model to a run or a model; for one behind an endpoint, set "
            f"{section}.endpoint too.",
        )
    if settings.endpoint:
        from burnish.engines.answerers.remote import RemoteAnswerer

        return RemoteAnswerer(settings, section)
    from burnish.engines.answerers.local import LocalAnswerer

    return LocalAnswerer(settings.model, batch_size, thinks)
