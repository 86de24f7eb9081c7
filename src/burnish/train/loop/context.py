"""The inputs of a training run: recipe, rows, base model, tokenizer, process group."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from transformers import PreTrainedTokenizerBase

from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Row, have_reasoning
from burnish.data.load import Dataset
from burnish.models.chat_template import set_thinking, split_as_served
from burnish.models.load import load_tokenizer
from burnish.models.local_models import LocalModel
from burnish.models.rendering.text_windows import windows_of
from burnish.train.distributed.process_group import SINGLE, ProcessGroup

#: Objectives that learn every answer of a conversation.
_CONVERSATION_OBJECTIVES = ("sft", "distill", "custom")


@dataclass(frozen=True, slots=True)
class TrainContext:
    """The inputs of a training run. Nothing in it changes while the run goes on."""

    recipe: Recipe
    dataset: Dataset
    base: LocalModel
    tokenizer: PreTrainedTokenizerBase
    process_group: ProcessGroup = SINGLE

    @classmethod
    def create(
        cls,
        recipe: Recipe,
        dataset: Dataset,
        base: LocalModel,
        process_group: ProcessGroup = SINGLE,
    ) -> Self:
        """Build the context with the base model's tokenizer.

        The tokenizer's template asks for reasoning if training rows have any. Conversations are
        split into the rows that the model will be served (see `split_as_served`), and long texts
        into windows (see `windows_of`).
        """
        tokenizer = set_thinking(load_tokenizer(base), have_reasoning(dataset.split.train))
        if recipe.train.objective.kind in _CONVERSATION_OBJECTIVES:
            split, max_length = dataset.split, recipe.train.max_length
            train, validation = (
                _split_into_windows(tokenizer, _rows_as_served(tokenizer, rows), max_length)
                for rows in (split.train, split.validation)
            )
            split = replace(split, train=train, validation=validation)
            dataset = replace(dataset, split=split)
        return cls(recipe, dataset, base, tokenizer, process_group)

    def with_process_group(self, process_group: ProcessGroup) -> "TrainContext":
        """Return the context for one of several processes."""
        return replace(self, process_group=process_group)


def _rows_as_served(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> tuple[Row, ...]:
    split_rows = [split_as_served(tokenizer, row) for row in rows]
    if count := sum(len(parts) > 1 for parts in split_rows):
        say(
            f"{count} conversations become one row for each answer: the model's template renders "
            "earlier answers differently from the last one."
        )
    return tuple(row for parts in split_rows for row in parts)


def _split_into_windows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int
) -> tuple[Row, ...]:
    split_rows = [windows_of(tokenizer, row, max_length) for row in rows]
    if counts := [len(windows) for windows in split_rows if len(windows) > 1]:
        say(
            f"{len(counts)} texts of more than {max_length} tokens are split into {sum(counts)} "
            "windows (train.max_length)."
        )
    return tuple(row for windows in split_rows for row in windows)
