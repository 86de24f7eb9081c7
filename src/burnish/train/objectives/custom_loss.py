"""A loss of one's own: a function in a Python file that the recipe names.

The file is run as it is, so it is the operator's to name and never a request's: the methods of a
fine-tuning job (`serve.tuning`) don't know this objective.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from burnish.core.errors import BadRecipe
from burnish.core.recipe.objectives import CustomLoss
from burnish.core.records import Row
from burnish.train.batching.examples import RowExample
from burnish.train.batching.packed import PackedBatch
from burnish.train.losses.linear import LinearLogProbs, head_logits


@dataclass(frozen=True, slots=True, eq=False)
class ScoredAnswer:
    """An answer as the model sees it now: n learnt tokens.

    `tokens` (n,) are their ids, `weights` (n,) their loss weights, `logprobs` (n,) their
    log-probabilities (natural, float32), `hidden` (n, width) what they are predicted from,
    by the weight `head` (vocabulary, width); without a head, `hidden` are the logits themselves.
    """

    tokens: torch.Tensor
    weights: torch.Tensor
    logprobs: torch.Tensor
    hidden: torch.Tensor
    head: torch.Tensor | None

    @property
    def logits(self) -> torch.Tensor:
        """(n, vocabulary), float32; computed when it is asked for, since it is large."""
        return head_logits(self.hidden, self.head)


#: What is taken for a mistake in the file; want of memory is not one.
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip

CustomLossFn = Callable[[Sequence[ScoredAnswer], Row], torch.Tensor]


def load_loss(settings: CustomLoss) -> CustomLossFn:
    """The function that the recipe names. Raises BadRecipe if it isn't there or doesn't load."""
    named = f"`{settings.function}` of {settings.file}"
    if not settings.file.is_file():
        raise BadRecipe(f"There is no file {settings.file}.", "Correct train.objective.file.")
    spec = importlib.util.spec_from_file_location("burnish_custom_loss", settings.file)
    if spec is None or spec.loader is None:
        raise BadRecipe(f"{settings.file} isn't a Python file.", "Name one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except _FAULTS as error:
        raise BadRecipe(
            f"{settings.file} doesn't load: {type(error).__name__}: {error}", "Correct it."
        ) from error
    function = getattr(module, settings.function, None)
    if not callable(function):
        raise BadRecipe(f"There is no function {named}.", "Correct train.objective.function.")

    def loss(answers: Sequence[ScoredAnswer], row: Row) -> torch.Tensor:
        try:
            found = function(answers, row, **settings.settings)
        except _FAULTS as error:
            raise BadRecipe(
                f"{named} failed on {row.file}, row {row.line}: {type(error).__name__}: {error}",
                "Correct it, then start a new run.",
            ) from error
        return _check_loss(found, named)

    return loss


def compute_losses(
    loss: CustomLossFn, batch: PackedBatch, hidden: torch.Tensor, head: torch.Tensor | None
) -> list[torch.Tensor]:
    """The loss of each row of a batch. hidden (places, width), head (vocabulary, width)."""
    logprobs: torch.Tensor = LinearLogProbs.apply(hidden, head, batch.targets)
    found, begin = [], 0
    for example in batch.examples:
        end = begin + len(example.answers)
        places = [
            ((batch.answer_index == number) & (batch.weights > 0)).nonzero()[:, 0]
            for number in range(begin, end)
        ]
        begin = end
        answers = [
            ScoredAnswer(batch.targets[own], batch.weights[own], logprobs[own], hidden[own], head)
            for own in places
        ]
        if isinstance(example, RowExample):
            found.append(loss(answers, example.row))
    return found


def _check_loss(found: object, named: str) -> torch.Tensor:
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        raise BadRecipe(
            f"{named} gave {type(found).__name__}, not a tensor of one number.",
            "Return the row's loss, for instance a sum or a mean.",
        )
    if torch.is_grad_enabled() and not found.requires_grad:
        raise BadRecipe(
            f"What {named} gives doesn't depend on the model.",
            "Compute it from the answers' logprobs or logits, without detach() or item().",
        )
    return found.float().reshape(())
