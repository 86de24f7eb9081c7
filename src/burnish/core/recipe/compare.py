"""The section `compare` of a recipe."""

from typing import Literal

from pydantic import Field

from burnish.core.recipe.section import Section


class Compare(Section):
    """Which routes are measured and when one is better."""

    routes: tuple[
        Literal[
            "base",
            "few_shot",
            "retrieval",
            "classifier",
            "encoder",
            "fine_tuned",
            "retrieval_fine_tuned",
            "teacher",
        ],
        ...,
    ] = Field(
        (),
        description="The routes to measure; empty: base, few_shot, fine_tuned and, for labels, "
        "classifier (if `rag.embedder` is here). `encoder`, for labels too, fine-tunes "
        "`rag.embedder` itself, in minutes. Those with retrieval need `rag.documents`; "
        "`teacher`, a ceiling that the verdict leaves out, needs `distill.teacher`.",
    )
    shots: int = Field(8, ge=1, description="Examples in the few-shot prompt, if they fit.")
    examples: Literal["drawn", "similar"] = Field(
        "drawn",
        description="The few-shot examples: `drawn` by seed, the same for all questions; `similar` "
        "takes those nearest to each question by `rag.embedder`.",
    )
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Chance of shipping a fine-tune that is no better."
    )
    power: float = Field(
        0.8, gt=0.5, lt=1, description="Chance of seeing a real difference, for the rows advised."
    )
    least_gain: float = Field(
        0.02, ge=0, lt=1, description="Smallest gain in the metric that is worth a fine-tune."
    )
    seeds: int = Field(
        1,
        ge=1,
        le=20,
        description="Trainings of the judged route, with `train.seed` and the seeds after it; of "
        "more than one the interval of the gain includes their spread.",
    )
    stop_hopeless: bool = Field(
        True,
        description="From 1,024 test rows on: a route that isn't trained by gradient and does "
        "surely worse than another on 256 drawn questions isn't asked the rest.",
    )
    forgetting: bool = Field(
        True, description="Ask a small general set before and after, to see what was lost."
    )
    price_per_hour: float = Field(
        0.10, ge=0, description="Price of an hour of this machine, for the cost per request."
    )
    currency: str = Field("USD", description="Currency of `price_per_hour`.")
