"""The recipe's `search`: which settings a training is tried with."""

from typing import Literal

from pydantic import Field

from burnish.core.recipe.section import ExecutorName, Section


class Range(Section):
    """The numbers that a search may choose from; whole ones if both ends are."""

    low: int | float = Field(description="The smallest value.")
    high: int | float = Field(description="The largest value.")
    log: bool = Field(False, description="Draw the value's logarithm evenly.")

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Search(Section):
    """Which settings `burnish train --search` tries."""

    trials: int = Field(20, ge=1, description="Settings to try.")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="How settings are chosen: by what earlier ones gave, or at random."
    )
    prune: bool = Field(
        True, description="Give up a trial whose validation loss falls behind the others' median."
    )
    seeds: int = Field(3, ge=1, description="Trainings of the best settings, for the spread.")
    seed: int = Field(0, ge=0, description="Seed of the sampler.")
    parallel: int = Field(
        1, ge=1, description="Trainings at once; each beyond the first is a process of its own."
    )
    executor: ExecutorName = Field(
        "",
        description="Where they are trained: `ray`, `ray://HOST:PORT`, or empty for this machine.",
    )
    executor_cpus: int | None = Field(
        None,
        ge=1,
        description="CPUs that one takes of a node of the cluster; all of the smallest node if "
        "empty.",
    )
    space: dict[str, Range | tuple[str | int | float | bool, ...]] = Field(
        {
            "train.learning_rate": Range(low=1e-5, high=2e-3, log=True),
            "train.method.rank": (8, 16, 32, 64),
            "train.batch_size": (8, 16, 32),
        },
        description="Fields of the recipe, each with a range or a list of values.",
    )
