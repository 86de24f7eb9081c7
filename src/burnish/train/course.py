"""A way to train, from rows to an artifact: what `train` calls, whatever kind of model it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from burnish.core.recipe import Recipe
from burnish.core.records import have_thoughts
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.models.artifact import Artifact
from burnish.models.chat import switched
from burnish.models.load import load_tokenizer
from burnish.models.local import LocalModel
from burnish.train.checkpoint import State
from burnish.train.loop import Plan
from burnish.train.team import ALONE, Team


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
        learn from have any."""
        tokenizer = switched(load_tokenizer(base), have_thoughts(dataset.split.train))
        return cls(recipe, dataset, base, tokenizer, team)


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
