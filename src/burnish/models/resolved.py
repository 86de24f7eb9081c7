"""A recipe with its base model found: looked up once where a command begins, then handed down."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from burnish.core.recipe.recipe import Recipe
from burnish.models.load import load_tokenizer
from burnish.models.local_models import LocalModel, find_model


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe and the model of this machine that its `model.name` means."""

    recipe: Recipe
    base: LocalModel

    @classmethod
    def of(cls, recipe: Recipe) -> "Resolved":
        """Find the recipe's base model. Raises NotFound."""
        return cls(recipe, find_model(recipe.model.name))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer with its chat template."""
        return load_tokenizer(self.base)
