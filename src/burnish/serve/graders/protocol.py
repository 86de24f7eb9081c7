"""Graders as OpenAI clients write them. `python` is refused unless the operator allows it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter

from burnish.serve.errors import Refused
from burnish.serve.protocol import Closed, Text

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_]\w*$")]


class StringCheck(Closed):
    """1 if two texts are equal (`eq`), not (`ne`), or one holds the other (`like`, `ilike`)."""

    type: Literal["string_check"]
    name: Name
    input: Text
    reference: Text
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(Closed):
    """How alike two texts are, from 0 to 1."""

    type: Literal["text_similarity"]
    name: Name
    input: Text
    reference: Text
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "gleu", "cosine", "rouge_1", "rouge_2", "rouge_3", "rouge_4",
        "rouge_5", "rouge_l",
    ]  # fmt: skip


class Sampling(Closed):
    """How the model of a score model answers."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**31)
    max_completions_tokens: int | None = Field(None, ge=1, lt=2**31)
    reasoning_effort: None = Field(None, description="The models here do not reason.")


class Asking(Closed):
    """A message to the model of a score model."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    type: Literal["message"] | None = None


class ScoreModel(Closed):
    """A number in `range` that a model gives."""

    type: Literal["score_model"]
    name: Name
    model: Text
    input: list[Asking] = Field(min_length=1, max_length=64)
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    sampling_params: Sampling | None = None


class Python(Closed):
    """What a function `grade(sample, item)` returns. There is one image, whatever tag is named."""

    type: Literal["python"]
    name: Name
    source: Annotated[str, Field(min_length=1, max_length=256 * 1024)]
    image_tag: Annotated[str, Field(max_length=64)] | None = None


Single = Annotated[StringCheck | TextSimilarity | ScoreModel | Python, Field(discriminator="type")]


class Multi(Closed):
    """A formula over several graders; one alone may stand in `graders` without a name."""

    type: Literal["multi"]
    name: Name
    graders: Annotated[
        Annotated[Single, Tag("one")]
        | Annotated[dict[Name, Single], Field(min_length=1, max_length=32), Tag("several")],
        Discriminator(
            lambda given: "one" if isinstance(given, dict) and "type" in given else "several"
        ),
    ]
    calculate_output: Annotated[str, Field(min_length=1, max_length=2000)]

    @property
    def named(self) -> dict[str, Single]:
        """The graders by the names that the formula uses."""
        return self.graders if isinstance(self.graders, dict) else {self.graders.name: self.graders}


Grader = Annotated[
    StringCheck | TextSimilarity | ScoreModel | Python | Multi, Field(discriminator="type")
]


_GRADER: TypeAdapter[Grader] = TypeAdapter(Grader)
CODE_REFUSED = (
    "`python` graders are refused: no request may run code here, unless the operator allows it "
    "(burnish serve --python-graders)."
)


def singles(grader: Grader) -> tuple[Single, ...]:
    """The graders that a grader is made of."""
    return tuple(grader.named.values()) if isinstance(grader, Multi) else (grader,)


def refuse_code(grader: Grader, allowed: bool, param: str = "grader") -> None:
    """Raises Refused for a `python` grader where the operator has not allowed them."""
    if not allowed and any(isinstance(one, Python) for one in singles(grader)):
        raise Refused(CODE_REFUSED, param, "python_graders_off")


def holds_code(written: Mapping[str, Any] | None) -> bool:
    """Whether a stored grader is `python`, or made of one."""
    return written is not None and any(
        isinstance(one, Python) for one in singles(_GRADER.validate_python(written))
    )


def _without_models(grader: Grader) -> Grader:
    """Raises ValueError for what would ask a model about every answer that is drawn."""
    for one in singles(grader):
        if isinstance(one, ScoreModel):
            raise ValueError("`score_model` graders run on samples here, not in a training")
        if isinstance(one, TextSimilarity) and one.evaluation_metric == "cosine":
            raise ValueError("`cosine` needs a model, and none is asked in a training here")
    return grader


#: A grader that can reward answers in a training.
RewardGrader = Annotated[Grader, AfterValidator(_without_models)]


class ValidateGrader(Closed):
    """POST /fine_tuning/alpha/graders/validate."""

    grader: Grader


class RunGrader(Closed):
    """POST /fine_tuning/alpha/graders/run."""

    grader: Grader
    model_sample: Text
    item: dict[str, Any] | None = None
