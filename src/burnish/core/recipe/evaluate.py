"""The section of a recipe that is about a model that grades answers."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from burnish.core.recipe.endpoint import ModelEndpoint
from burnish.core.recipe.section import Paths, Section


class JudgeEndpoint(ModelEndpoint):
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
    def _check_grades_differ(cls, grades: dict[str, float]) -> dict[str, float]:
        names = [name.strip().casefold() for name in grades]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError("two grades have the same name, or one has none")
        return grades


class Evaluate(Section):
    """How answers are scored."""

    metric: Literal[
        "auto", "accuracy", "exact_match", "token_f1", "field_f1", "span_f1", "rouge_l", "bleu",
        "chrf", "squad_exact_match", "squad_f1", "graded",
    ] = Field(
        "auto",
        description="The score that decides; `auto` takes the task's own, `graded` is the grade "
        "that `judge` gives.",
    )  # fmt: skip
    judge: JudgeEndpoint = Field(
        JudgeEndpoint(), description="The model that grades, for metric `graded`."
    )
    batch_size: int = Field(16, ge=1, description="Prompts answered at once.")
    max_new_tokens: int | None = Field(
        None, ge=1, description="Longest answer; taken from the training answers if empty."
    )
    max_rows: int | None = Field(
        None,
        ge=1,
        description="Measure on this many test rows only, drawn by `seed` (a smoke run).",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals.")
    seed: int = Field(0, ge=0, description="Seed of the bootstrap and of `max_rows`.")
