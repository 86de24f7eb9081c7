"""A way to train, from rows to an artifact: what `train` calls, whatever kind of model it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Row, have_reasoning
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.models.artifact import Artifact
from burnish.models.chat_template import set_thinking, split_as_served
from burnish.models.load import load_tokenizer
from burnish.models.local_models import LocalModel
from burnish.models.text_windows import windows_of
from burnish.train.distributed.process_group import SINGLE, ProcessGroup
from burnish.train.loop.checkpoint import TrainState
from burnish.train.loop.loop import TrainingModule

#: Objectives that learn each answer of a conversation.
_CONVERSATION_OBJECTIVES = ("sft", "distill", "custom")


@dataclass(frozen=True, slots=True)
class TrainContext:
    """What a training begins with."""

    recipe: Recipe
    dataset: Dataset
    base: LocalModel
    tokenizer: PreTrainedTokenizerBase
    team: ProcessGroup = SINGLE

    @classmethod
    def create(
        cls, recipe: Recipe, dataset: Dataset, base: LocalModel, team: ProcessGroup = SINGLE
    ) -> Self:
        """With the base's tokenizer; one whose template can ask for thoughts does so if the rows to
        learn from have any. Conversations are rows as they will be served (see `as_served`)."""
        tokenizer = set_thinking(load_tokenizer(base), have_reasoning(dataset.split.train))
        if recipe.train.objective.kind in _CONVERSATION_OBJECTIVES:
            split = dataset.split
            most = recipe.train.max_length
            parts = [
                _in_windows(tokenizer, _rows_as_served(tokenizer, rows), most)
                for rows in (split.train, split.validation)
            ]
            split = replace(split, train=parts[0], validation=parts[1])
            dataset = replace(dataset, split=split)
        return cls(recipe, dataset, base, tokenizer, team)


def _rows_as_served(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> tuple[Row, ...]:
    parts = [split_as_served(tokenizer, row) for row in rows]
    if several := sum(len(some) > 1 for some in parts):
        say(
            f"{several} conversations are learnt answer by answer: the model's template shows "
            "earlier answers otherwise than they were said."
        )
    return tuple(row for some in parts for row in some)


def _in_windows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], most: int
) -> tuple[Row, ...]:
    parts = [windows_of(tokenizer, row, most) for row in rows]
    if longer := [len(some) for some in parts if len(some) > 1]:
        say(
            f"{len(longer)} texts of more than {most} tokens are learnt in {sum(longer)} windows "
            "(train.max_length)."
        )
    return tuple(row for some in parts for row in some)


def start_immediately(
    plan: TrainingModule, given: TrainContext, run: Run, state: TrainState
) -> TrainingModule:
    """Nothing needs to be done before the first step."""
    return plan


@dataclass(frozen=True, slots=True)
class Trainer:
    """The parts of a training that depend on what is trained.

    `examples` gives the rows to learn from and those to validate, and refuses what can't be
    learnt from; `prepare` the plan with its model; `ready` does what comes before the first step;
    `save` (folder, plan, given, lineage) writes the artifact.
    """

    tokenize: Callable[[TrainContext], tuple[Sequence[Any], Sequence[Any]]]
    build: Callable[[TrainContext, Run, Sequence[Any], Sequence[Any]], TrainingModule]
    save: Callable[[Path, Any, TrainContext, Mapping[str, Any]], Artifact]
    before_first_step: Callable[[Any, TrainContext, Run, TrainState], TrainingModule] = (
        start_immediately
    )
