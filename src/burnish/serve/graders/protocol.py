"""Graders as OpenAI clients write them. `python` is refused unless the operator allows it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter

from burnish.evaluate.sandbox.sandbox import MAX_SOURCE_LENGTH
from burnish.serve.errors import RequestError
from burnish.serve.protocol import ApiObject, OmittedIfNone, StrictApiModel, Text

GraderName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_]\w*$")]


class StringCheckGrader(StrictApiModel):
    """1 if two texts are equal (`eq`) or not (`ne`), or the first contains the second (`like`, and
    `ilike` without regard to case); else 0."""

    type: Literal["string_check"]
    name: GraderName
    input: Text
    reference: Text
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarityGrader(StrictApiModel):
    """Similarity of two texts, from 0 to 1."""

    type: Literal["text_similarity"]
    name: GraderName
    input: Text
    reference: Text
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "gleu", "cosine", "rouge_1", "rouge_2", "rouge_3", "rouge_4",
        "rouge_5", "rouge_l",
    ]  # fmt: skip


class GraderSampling(StrictApiModel):
    """Sampling settings of a score model."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**31)
    max_completions_tokens: int | None = Field(None, ge=1, lt=2**31)
    reasoning_effort: None = Field(None, description="The models here do not reason.")


class GraderMessage(StrictApiModel):
    """A message to a score model."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    type: Literal["message"] | None = None


class ScoreModelGrader(StrictApiModel):
    """A number in `range` that a model answers."""

    type: Literal["score_model"]
    name: GraderName
    model: Text
    input: list[GraderMessage] = Field(min_length=1, max_length=64)
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    sampling_params: GraderSampling | None = None


class PythonGrader(StrictApiModel):
    """The number that a function `grade(sample, item)` returns. `image_tag` is ignored."""

    type: Literal["python"]
    name: GraderName
    source: Annotated[str, Field(min_length=1, max_length=MAX_SOURCE_LENGTH)]
    image_tag: Annotated[str, Field(max_length=64)] | None = None


SingleGrader = Annotated[
    StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | PythonGrader,
    Field(discriminator="type"),
]


class MultiGrader(StrictApiModel):
    """A formula over several graders; a single one may stand in `graders` without a name."""

    type: Literal["multi"]
    name: GraderName
    graders: Annotated[
        Annotated[SingleGrader, Tag("one")]
        | Annotated[
            dict[GraderName, SingleGrader], Field(min_length=1, max_length=32), Tag("several")
        ],
        Discriminator(
            lambda value: "one" if isinstance(value, dict) and "type" in value else "several"
        ),
    ]
    calculate_output: Annotated[str, Field(min_length=1, max_length=2000)]

    @property
    def graders_by_name(self) -> dict[str, SingleGrader]:
        """The graders by their names in the formula."""
        return self.graders if isinstance(self.graders, dict) else {self.graders.name: self.graders}


Grader = Annotated[
    StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | PythonGrader | MultiGrader,
    Field(discriminator="type"),
]


_GRADER_ADAPTER: TypeAdapter[Grader] = TypeAdapter(Grader)
CODE_REFUSED = (
    "`python` graders are disabled: the operator has to allow requests to run code "
    "(burnish serve --python-graders)."
)


def single_graders(grader: Grader) -> tuple[SingleGrader, ...]:
    """Return the graders that a grader consists of."""
    return tuple(grader.graders_by_name.values()) if isinstance(grader, MultiGrader) else (grader,)


def reject_code(grader: Grader, allowed: bool, param: str = "grader") -> None:
    """Raise RequestError for a `python` grader where the operator has not allowed them."""
    if not allowed and any(isinstance(one, PythonGrader) for one in single_graders(grader)):
        raise RequestError(CODE_REFUSED, param, "python_graders_off")


def contains_code(stored: Mapping[str, Any] | None) -> bool:
    """Return whether a stored grader is `python`, or contains one."""
    return stored is not None and any(
        isinstance(one, PythonGrader)
        for one in single_graders(_GRADER_ADAPTER.validate_python(stored))
    )


def _reject_model_graders(grader: Grader) -> Grader:
    """Raise ValueError for a grader that would call a model for every sampled answer."""
    for one in single_graders(grader):
        if isinstance(one, ScoreModelGrader):
            raise ValueError(
                "`score_model` graders are supported by /graders/run, not in a training"
            )
        if isinstance(one, TextSimilarityGrader) and one.evaluation_metric == "cosine":
            raise ValueError("`cosine` needs an embedding model, which a training does not call")
    return grader


#: A grader that can reward answers in a training.
RewardGrader = Annotated[Grader, AfterValidator(_reject_model_graders)]


class ValidateGrader(StrictApiModel):
    """POST /fine_tuning/alpha/graders/validate."""

    grader: Grader


class RunGrader(StrictApiModel):
    """POST /fine_tuning/alpha/graders/run."""

    grader: Grader
    model_sample: Text
    item: dict[str, Any] | None = None


class ValidatedGrader(ApiObject):
    """The response to POST /fine_tuning/alpha/graders/validate."""

    grader: Grader


class GraderErrors(ApiObject):
    """What went wrong, by the hosted API's names; `*_details` and `*_type` explain it."""

    formula_parse_error: bool = False
    formula_parse_error_details: OmittedIfNone[str] = None
    sample_parse_error: bool = False
    sample_parse_error_details: str | None = None
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    invalid_variable_error_details: str | None = None
    other_error: bool = False
    other_error_details: OmittedIfNone[str] = None
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_server_error_details: str | None = None
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_parse_error_details: OmittedIfNone[str] = None


class GraderMetadata(ApiObject):
    """How a sample was scored; `execution_time` in seconds."""

    name: str
    type: str
    errors: GraderErrors
    execution_time: float
    scores: dict[str, float]
    token_usage: int | None
    sampled_model_name: str | None


class GraderRunObject(ApiObject):
    """The response to POST /fine_tuning/alpha/graders/run."""

    reward: float
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, int]
    metadata: GraderMetadata
