"""A way to train, from rows to an artifact: what `train` calls, whatever kind of model it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.core.records import Row, have_thoughts
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.models.artifact import Artifact
from burnish.models.chat import as_served, switched
from burnish.models.load import load_tokenizer
from burnish.models.local import LocalModel
from burnish.models.text_windows import windows_of
from burnish.train.checkpoint import State
from burnish.train.loop import Plan
from burnish.train.team import ALONE, Team

#: Objectives that learn each answer of a conversation.
_ANSWERS = ("sft", "distil", "custom")


@dataclass(frozen=True, slots=True)
class Given:
    """What a training begins with."""

    recipe: Recipe
    dataset: Dataset
    base: LocalModel
    tokenizer: PreTrainedTokenizerBase
    team: Team = ALONE

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset, base: LocalModel, team: Team = ALONE) -> Self:
        """With the base's tokenizer; one whose template can ask for thoughts does so if the rows to
        learn from have any. Conversations are rows as they will be served (see `as_served`)."""
        tokenizer = switched(load_tokenizer(base), have_thoughts(dataset.split.train))
        if recipe.train.objective.kind in _ANSWERS:
            split = dataset.split
            most = recipe.train.max_length
            parts = [
                _in_windows(tokenizer, _served(tokenizer, rows), most)
                for rows in (split.train, split.validation)
            ]
            split = replace(split, train=parts[0], validation=parts[1])
            dataset = replace(dataset, split=split)
        return cls(recipe, dataset, base, tokenizer, team)


def _served(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> tuple[Row, ...]:
    parts = [as_served(tokenizer, row) for row in rows]
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


def at_once(plan: Plan, given: Given, run: Run, state: State) -> Plan:
    """Nothing needs to be done before the first step."""
    return plan


@dataclass(frozen=True, slots=True)
class Course:
    """The parts of a training that depend on what is trained.

    `examples` gives the rows to learn from and those to validate, and refuses what can't be
    learnt from; `prepare` the plan with its model; `ready` does what comes before the first step;
    `save` (folder, plan, given, lineage) writes the artifact.
    """

    examples: Callable[[Given], tuple[Sequence[Any], Sequence[Any]]]
    prepare: Callable[[Given, Run, Sequence[Any], Sequence[Any]], Plan]
    save: Callable[[Path, Any, Given, Mapping[str, Any]], Artifact]
    ready: Callable[[Any, Given, Run, State], Plan] = at_once
