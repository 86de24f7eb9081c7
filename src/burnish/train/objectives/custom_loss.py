"""The objective `custom`: a loss function in a Python file that the recipe names.

The file is executed, so only the operator may name it, never an HTTP request: the methods of a
fine-tuning job (`serve.fine_tuning.recipe`) don't include this objective.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from burnish.core.errors import BadRecipe
from burnish.core.recipe.objectives import CustomLoss
from burnish.core.records import Row
from burnish.train.batching.examples import RowExample, row_examples
from burnish.train.batching.packed import PackedBatch
from burnish.train.forward.path import target_states
from burnish.train.loop.language_model import Objective
from burnish.train.losses.batch_loss import BatchLoss
from burnish.train.losses.linear import LinearLogProbs, head_logits
from burnish.train.objectives.base import batch_only, row_count


@dataclass(frozen=True, slots=True, eq=False)
class ScoredAnswer:
    """The n target tokens of an answer, as the model predicts them now.

    `tokens` (n,) are their ids, `weights` (n,) their loss weights, `logprobs` (n,) their
    log-probabilities (natural, float32), `hidden` (n, width) the states that predict them; `head`
    (vocabulary, width) is the weight of the output layer.
    """

    tokens: torch.Tensor
    weights: torch.Tensor
    logprobs: torch.Tensor
    hidden: torch.Tensor
    head: torch.Tensor | None

    @property
    def logits(self) -> torch.Tensor:
        """(n, vocabulary), float32; computed on access, since it is large."""
        return head_logits(self.hidden, self.head)


#: Errors that are a mistake in the file; being out of memory is none.
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip

CustomLossFn = Callable[[Sequence[ScoredAnswer], Row], torch.Tensor]


def load_loss(settings: CustomLoss) -> CustomLossFn:
    """Load the function that the recipe names. Raises BadRecipe if it is missing or fails."""
    named = f"`{settings.function}` of {settings.file}"
    if not settings.file.is_file():
        raise BadRecipe(f"There is no file {settings.file}.", "Fix train.objective.file.")
    spec = importlib.util.spec_from_file_location("burnish_custom_loss", settings.file)
    if spec is None or spec.loader is None:
        raise BadRecipe(f"{settings.file} isn't a Python file.", "Name one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except _FAULTS as error:
        raise BadRecipe(
            f"{settings.file} doesn't load: {type(error).__name__}: {error}", "Fix it."
        ) from error
    function = getattr(module, settings.function, None)
    if not callable(function):
        raise BadRecipe(f"There is no function {named}.", "Fix train.objective.function.")

    def loss(answers: Sequence[ScoredAnswer], row: Row) -> torch.Tensor:
        try:
            result = function(answers, row, **settings.settings)
        except _FAULTS as error:
            raise BadRecipe(
                f"{named} failed on {row.file}, row {row.line}: {type(error).__name__}: {error}",
                "Fix it, then start a new run.",
            ) from error
        return _check_loss(result, named)

    return loss


def compute_losses(
    loss: CustomLossFn, batch: PackedBatch, hidden: torch.Tensor, head: torch.Tensor | None
) -> list[torch.Tensor]:
    """Return the loss of each row of a batch. hidden (targets, width), head (vocabulary, width)."""
    logprobs: torch.Tensor = LinearLogProbs.apply(hidden, head, batch.targets)
    losses, begin = [], 0
    for example in batch.examples:
        end = begin + len(example.answers)
        positions = [
            ((batch.answer_index == number) & (batch.weights > 0)).nonzero()[:, 0]
            for number in range(begin, end)
        ]
        begin = end
        answers = [
            ScoredAnswer(batch.targets[at], batch.weights[at], logprobs[at], hidden[at], head)
            for at in positions
        ]
        if isinstance(example, RowExample):
            losses.append(loss(answers, example.row))
    return losses


def custom(settings: CustomLoss) -> Objective:
    """Build the objective `custom`. Raises BadRecipe if the function doesn't load."""
    loss = load_loss(settings)

    def compute_loss(model: PreTrainedModel, batch: PackedBatch) -> BatchLoss:
        return BatchLoss(
            torch.stack(compute_losses(loss, batch, *target_states(model, batch))).sum()
        )

    return Objective(row_examples, row_count, batch_only(compute_loss))


def _check_loss(result: object, named: str) -> torch.Tensor:
    if not isinstance(result, torch.Tensor) or result.numel() != 1:
        raise BadRecipe(
            f"{named} returned {type(result).__name__}, not a tensor of one number.",
            "Return the row's loss, for instance a sum or a mean.",
        )
    if torch.is_grad_enabled() and not result.requires_grad:
        raise BadRecipe(
            f"The result of {named} doesn't depend on the model.",
            "Compute it from the answers' logprobs or logits, without detach() or item().",
        )
    return result.float().reshape(())
