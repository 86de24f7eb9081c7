"""The section of a recipe that is about a model that grades answers."""

from typing import Annotated

from pydantic import Field, field_validator

from burnish.core.answerer import Answerer
from burnish.core.section import Paths


class Judge(Answerer):
    """Who grades answers where `evaluate.metric` is `graded`. It counts only if it agrees with
    people on answers that they have graded."""

    human: Paths = Field(
        (),
        description="Files of answers that people graded: `question`, `answer`, `verdict` (one of "
        "`grades`) and, where there is one, `reference`. A line of `predictions-*.jsonl` with a "
        "`verdict` will do.",
    )
    rubric: str = Field(
        "An answer is right if it says what the reference says and nothing that contradicts it; "
        "wording, length and form do not matter.",
        description="What the judge is told to grade by; the people should have been told the "
        "same.",
    )
    grades: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {"right": 1.0, "wrong": 0.0},
        min_length=2,
        description="The grades and the score of each.",
    )
    least_kappa: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Least agreement with the people, as Cohen's kappa: 0 is chance, 1 is always. "
        "Below it nothing is scored.",
    )
    least_labels: int = Field(50, ge=10, description="Fewest answers that people must have graded.")
    max_new_tokens: int = Field(
        16, ge=1, description="Longest reply of the judge; more for one that thinks aloud first."
    )

    @field_validator("grades")
    @classmethod
    def _can_be_told_apart(cls, grades: dict[str, float]) -> dict[str, float]:
        names = [name.strip().casefold() for name in grades]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError("two grades have the same name, or one has none")
        return grades
