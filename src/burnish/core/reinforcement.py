"""The sections of a recipe that are about learning from rewards: what is rewarded, and GRPO."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from burnish.core.section import Section, kind_or

MetricName = Literal[
    "auto",
    "accuracy",
    "exact_match",
    "token_f1",
    "field_f1",
    "rouge_l",
    "bleu",
    "chrf",
    "squad_exact_match",
    "squad_f1",
]
#: What a grader says of two texts; the hosted API's names.
Similarity = Literal[
    "fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
]  # fmt: skip


class MetricReward(Section):
    """A metric of `burnish evaluate`, against the row's own answer."""

    kind: Literal["metric"] = "metric"
    metric: MetricName = Field("auto", description="Which; `auto`: the task's own.")


class Compared(Section):
    """What graders of two texts have in common."""

    input: str = Field(
        "{{sample.output_text}}",
        description="A template: `{{sample.output_text}}`, `{{sample.output_json.key}}`, "
        "`{{item.key}}` (a key of the row; `item.answer` is its answer).",
    )
    reference: str = Field("{{item.answer}}", description="The text that it is compared with.")


class StringCheck(Compared):
    """1 if two texts are equal (`eq`), not (`ne`), or the first holds the second (`like`,
    `ilike`)."""

    kind: Literal["string_check"] = "string_check"
    operation: Literal["eq", "ne", "like", "ilike"] = Field("eq", description="How to compare.")


class TextSimilarity(Compared):
    """How alike two texts are, from 0 to 1."""

    kind: Literal["text_similarity"] = "text_similarity"
    evaluation_metric: Similarity = Field("rouge_l", description="The measure.")


class PythonGrader(Section):
    """What a function `grade(sample, item)` returns, run in a sandbox (Linux with bubblewrap)."""

    kind: Literal["python"] = "python"
    source: str = Field(
        max_length=256 * 1024,
        description="Python that defines it: `sample` has `output_text` (and `output_json`), "
        "`item` the row's keys and `answer`. No network, no files, 2 minutes, 2 GiB.",
    )


Graded = StringCheck | TextSimilarity | PythonGrader


class Multi(Section):
    """A formula over several graders."""

    kind: Literal["multi"] = "multi"
    graders: dict[str, Annotated[Graded, Field(discriminator="kind")]] = Field(
        description="The graders by the names that the formula uses."
    )
    calculate_output: str = Field(
        description="Arithmetic over these names; `min max abs floor ceil exp sqrt log` are known."
    )


class FileReward(Section):
    """A reward of one's own: a function in a Python file, which is run as it is."""

    kind: Literal["file"] = "file"
    file: Path = Field(description="The Python file.")
    function: str = Field(
        "reward", description="The function: (answer, row, **settings) → a number."
    )
    settings: dict[str, bool | int | float | str] = Field(
        {}, description="Passed to the function by name."
    )


class ModelReward(Section):
    """What a reward model gives: a run of `train.objective: reward`."""

    kind: Literal["model"] = "model"
    run: str = Field(description="The run that trained it.")


Reward = (
    MetricReward | StringCheck | TextSimilarity | PythonGrader | Multi | ModelReward | FileReward
)


class Grpo(Section):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): the model answers
    each question several times, and learns from the answers whose reward is above the others'."""

    kind: Literal["grpo"] = "grpo"
    reward: Annotated[Annotated[Reward, Field(discriminator="kind")], kind_or("metric")] = Field(
        MetricReward(), description="What an answer is worth."
    )
    answers: int = Field(8, ge=2, description="Answers drawn to each question.")
    max_new_tokens: int = Field(
        0, ge=0, description="Longest answer; 0: half more than the rows' longest (256 without)."
    )
    validation_answers: int = Field(
        1, ge=1, description="Answers to a question of a validation; 1: the likeliest one."
    )
    temperature: float = Field(
        1.0, gt=0, description="Of the drawing; lower draws more alike and learns less."
    )
    beta: float = Field(
        0.04, ge=0, description="How strongly the model is held to where it began; 0 saves a pass."
    )
    updates: int = Field(
        1, ge=1, description="Optimizer steps on the same answers before new ones are drawn."
    )
    clip: float = Field(
        0.2, gt=0, lt=1, description="From the second of `updates` on: how far a chance may move."
    )
    clip_high: float | None = Field(
        None, gt=0, description="The same upwards (DAPO, Yu et al. 2025, arXiv:2503.14476: 0.28)."
    )
    loss: Literal["dapo", "grpo", "dr_grpo"] = Field(
        "dapo",
        description="`dapo`: mean over a step's tokens; `grpo`: over each answer's, as in the "
        "paper; `dr_grpo`: sum over the longest length (Liu et al. 2025, arXiv:2503.20783).",
    )
    scale_rewards: bool = Field(
        True, description="Divide a group's advantages by its standard deviation."
    )
