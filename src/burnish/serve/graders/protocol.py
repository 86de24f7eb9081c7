"""Graders as OpenAI clients write them. `python` is refused unless the operator allows it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter

from burnish.serve.errors import RequestError
from burnish.serve.protocol import StrictApiModel, Text

GraderName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_]\w*$")]


class StringCheckGrader(StrictApiModel):
    """1 if two texts are equal (`eq`), not (`ne`), or one holds the other (`like`, `ilike`)."""

    type: Literal["string_check"]
    name: GraderName
    input: Text
    reference: Text
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarityGrader(StrictApiModel):
    """How alike two texts are, from 0 to 1."""

    type: Literal["text_similarity"]
    name: GraderName
    input: Text
    reference: Text
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "gleu", "cosine", "rouge_1", "rouge_2", "rouge_3", "rouge_4",
        "rouge_5", "rouge_l",
    ]  # fmt: skip


class GraderSampling(StrictApiModel):
    """How the model of a score model answers."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**31)
    max_completions_tokens: int | None = Field(None, ge=1, lt=2**31)
    reasoning_effort: None = Field(None, description="The models here do not reason.")


class GraderMessage(StrictApiModel):
    """A message to the model of a score model."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    type: Literal["message"] | None = None


class ScoreModelGrader(StrictApiModel):
    """A number in `range` that a model gives."""

    type: Literal["score_model"]
    name: GraderName
    model: Text
    input: list[GraderMessage] = Field(min_length=1, max_length=64)
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    sampling_params: GraderSampling | None = None


class PythonGrader(StrictApiModel):
    """What a function `grade(sample, item)` returns. There is one image, whatever tag is named."""

    type: Literal["python"]
    name: GraderName
    source: Annotated[str, Field(min_length=1, max_length=256 * 1024)]
    image_tag: Annotated[str, Field(max_length=64)] | None = None


SingleGrader = Annotated[
    StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | PythonGrader,
    Field(discriminator="type"),
]


class MultiGrader(StrictApiModel):
    """A formula over several graders; one alone may stand in `graders` without a name."""

    type: Literal["multi"]
    name: GraderName
    graders: Annotated[
        Annotated[SingleGrader, Tag("one")]
        | Annotated[
            dict[GraderName, SingleGrader], Field(min_length=1, max_length=32), Tag("several")
        ],
        Discriminator(
            lambda given: "one" if isinstance(given, dict) and "type" in given else "several"
        ),
    ]
    calculate_output: Annotated[str, Field(min_length=1, max_length=2000)]

    @property
    def graders_by_name(self) -> dict[str, SingleGrader]:
        """The graders by the names that the formula uses."""
        return self.graders if isinstance(self.graders, dict) else {self.graders.name: self.graders}


Grader = Annotated[
    StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | PythonGrader | MultiGrader,
    Field(discriminator="type"),
]


_GRADER_ADAPTER: TypeAdapter[Grader] = TypeAdapter(Grader)
CODE_REFUSED = (
    "`python` graders are refused: no request may run code here, unless the operator allows it "
    "(burnish serve --python-graders)."
)


def single_graders(grader: Grader) -> tuple[SingleGrader, ...]:
    """The graders that a grader is made of."""
    return tuple(grader.graders_by_name.values()) if isinstance(grader, MultiGrader) else (grader,)


def reject_code(grader: Grader, allowed: bool, param: str = "grader") -> None:
    """Raises Refused for a `python` grader where the operator has not allowed them."""
    if not allowed and any(isinstance(one, PythonGrader) for one in single_graders(grader)):
        raise RequestError(CODE_REFUSED, param, "python_graders_off")


def contains_code(written: Mapping[str, Any] | None) -> bool:
    """Whether a stored grader is `python`, or made of one."""
    return written is not None and any(
        isinstance(one, PythonGrader)
        for one in single_graders(_GRADER_ADAPTER.validate_python(written))
    )


def _reject_model_graders(grader: Grader) -> Grader:
    """Raises ValueError for what would ask a model about every answer that is drawn."""
    for one in single_graders(grader):
        if isinstance(one, ScoreModelGrader):
            raise ValueError("`score_model` graders run on samples here, not in a training")
        if isinstance(one, TextSimilarityGrader) and one.evaluation_metric == "cosine":
            raise ValueError("`cosine` needs a model, and none is asked in a training here")
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
