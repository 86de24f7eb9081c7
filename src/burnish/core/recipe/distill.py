"""The sections of a recipe that are about learning from a teacher."""

from typing import Annotated, Literal

from pydantic import Field

from burnish.core.recipe.endpoint import ModelEndpoint
from burnish.core.recipe.rewards import MetricReward, Reward
from burnish.core.recipe.section import Section, kind_or


class TeacherEndpoint(ModelEndpoint):
    """Who answers: a local model or run, or a model behind an OpenAI-compatible endpoint."""

    temperature: float = Field(0.0, ge=0, description="0 takes the likeliest answer.")
    top_p: float = Field(1.0, gt=0, le=1, description="Share of the likeliest tokens drawn from.")
    max_new_tokens: int | None = Field(
        None, ge=1, description="Longest answer; taken from the rows' own answers if empty."
    )
    success_ratio: float = Field(
        0.7, ge=0, le=1, description="Stop when fewer of the questions succeed at the first try."
    )
    price_in: float = Field(0, ge=0, description="Price of a million tokens of questions.")
    price_out: float = Field(0, ge=0, description="Price of a million tokens of answers.")
    budget_tokens: int | None = Field(
        None, ge=1, description="Spend at most this many tokens, questions and answers together."
    )
    budget_money: float | None = Field(
        None, gt=0, description="Spend at most this much, in `compare.currency`."
    )
    terms: str = Field("", description="The provider's terms for such use, noted with the data.")


class Distill(Section):
    """A teacher answers the rows' questions, and a student learns the answers."""

    teacher: TeacherEndpoint = Field(TeacherEndpoint(), description="Who answers.")
    teachers: tuple[TeacherEndpoint, ...] = Field(
        (),
        description="Further teachers, asked the same. What `teacher` says is learnt where all of "
        "them agree with it; `burnish review` shows the other rows.",
    )
    agreement: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Least score between two teachers' answers, by the metric that decides, for "
        "them to agree; if empty 1 for labels and objects, 0.5 for free text.",
    )
    reasoning: Literal["cut", "keep", "ask"] = Field(
        "cut",
        description="What a teacher thinks before its answer is left out (`cut`), or learnt with "
        "it (`keep`); `ask` also tells the teacher to think aloud (chain of thought, Wei et al. "
        "2022, arXiv:2201.11903). A student that thinks isn't held to the labels.",
    )
    pairs: Literal["none", "student", "teacher"] = Field(
        "none",
        description="Pairs of a better and a worse answer for `train.objective` dpo, orpo, simpo "
        "or kto. The worse one is the student's own answer before it learns (`student`), or that "
        "of two samples of the teacher which `grader` scores lower (`teacher`).",
    )
    grader: Annotated[Annotated[Reward, Field(discriminator="kind")], kind_or("metric")] = Field(
        MetricReward(),
        description="Which of two answers is better; a metric compares with the row's own answer.",
    )
    layers: int | None = Field(
        None,
        ge=2,
        description="Cut the student to this many layers before it learns: evenly spaced, with the "
        "first and the last one. All if empty.",
    )
    neurons: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Leave the student this share of the neurons of each MLP, in blocks of 32: "
        "those that the training rows activate most (Muralidharan et al. 2024, arXiv:2407.14679). "
        "All if empty.",
    )
    heads: int | None = Field(
        None,
        ge=1,
        description="Leave the student this many key-value heads a layer, with the query heads of "
        "each: those that give most on the training rows. All if empty.",
    )
    vocab_size: int | None = Field(
        None,
        ge=1,
        description="Leave the student, an encoder, this many of its word pieces: all single "
        "characters, then those most frequent in the training rows (Abdaoui et al. 2020, "
        "arXiv:2010.05609). All if empty.",
    )
    layers_of: Literal["model", "teacher"] = Field(
        "model", description="Who is cut so: `model.name`, or a local teacher."
    )
    questions_per_passage: int = Field(
        0,
        ge=0,
        description="Questions with answers that the teacher writes about each passage of "
        "`rag.documents`, beside the training rows; 0: none.",
    )
    self_instruct: int = Field(
        0,
        ge=0,
        description="New questions that the teacher makes after the training rows' own and then "
        "answers; 0: none.",
    )
    evol_instruct: int = Field(
        0,
        ge=0,
        description="Harder questions that the teacher makes out of the training rows' own and "
        "then answers (Evol-Instruct, Xu et al. 2023, arXiv:2304.12244); 0: none.",
    )
    near_duplicate: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Jaccard similarity of question and answer from which a second row is dropped.",
    )
    fine_tuned: bool = Field(
        False,
        description="Train and measure the student on the rows' own answers too, beside the "
        "teacher's.",
    )

    @property
    def pruning_steps(self) -> tuple[str, ...]:
        """What the student is cut to before it learns, in words."""
        sizes = {
            "layers": self.layers,
            "neurons": self.neurons,
            "heads": self.heads,
            "pieces": self.vocab_size,
        }
        return tuple(f"{size} {name}" for name, size in sizes.items() if size is not None)
