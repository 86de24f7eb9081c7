"""The sections of a recipe that are about learning from rewards: what is rewarded, and GRPO."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from burnish.core.recipe.section import Section

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


class TextComparisonReward(Section):
    """What graders of two texts have in common."""

    input: str = Field(
        "{{sample.output_text}}",
        description="A template: `{{sample.output_text}}`, `{{sample.output_json.key}}`, "
        "`{{item.key}}` (a key of the row; `item.answer` is its answer).",
    )
    reference: str = Field("{{item.answer}}", description="The text that it is compared with.")


class StringCheckReward(TextComparisonReward):
    """1 if two texts are equal (`eq`), not (`ne`), or the first holds the second (`like`,
    `ilike`)."""

    kind: Literal["string_check"] = "string_check"
    operation: Literal["eq", "ne", "like", "ilike"] = Field("eq", description="How to compare.")


class TextSimilarityReward(TextComparisonReward):
    """How alike two texts are, from 0 to 1."""

    kind: Literal["text_similarity"] = "text_similarity"
    evaluation_metric: Similarity = Field("rouge_l", description="The measure.")


class PythonReward(Section):
    """What a function `grade(sample, item)` returns, run in a sandbox (Linux with bubblewrap)."""

    kind: Literal["python"] = "python"
    source: str = Field(
        max_length=256 * 1024,
        description="Python that defines it: `sample` has `output_text` (and `output_json`), "
        "`item` the row's keys and `answer`. No network, no files, 2 minutes, 2 GiB.",
    )


SingleReward = StringCheckReward | TextSimilarityReward | PythonReward


class MultiReward(Section):
    """A formula over several graders."""

    kind: Literal["multi"] = "multi"
    graders: dict[str, Annotated[SingleReward, Field(discriminator="kind")]] = Field(
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
    MetricReward
    | StringCheckReward
    | TextSimilarityReward
    | PythonReward
    | MultiReward
    | ModelReward
    | FileReward
)
