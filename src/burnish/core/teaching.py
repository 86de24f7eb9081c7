"""The sections of a recipe that are about learning from a teacher."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from burnish.core.answerer import Answerer
from burnish.core.reinforcement import MetricReward, Reward
from burnish.core.relations import Relations
from burnish.core.section import Section, kind_or


class Distillation(Section):
    """Learn a teacher's whole distribution over the next token, not only the token that it chose
    (Hinton et al. 2015, arXiv:1503.02531). The teacher is a local model; where its tokens are
    others than the student's, the two are matched by their text."""

    kind: Literal["distil"] = "distil"
    teacher: str = Field(
        "", description="A run or a model; in `burnish distil`, `distil.teacher.model` if empty."
    )
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        "forward_kl",
        description="`forward_kl` covers all that the teacher might say; `reverse_kl` keeps to "
        "what it says most; `jsd` lies between (generalised Jensen-Shannon, Agarwal et al. 2024, "
        "arXiv:2306.13649).",
    )
    beta: float = Field(
        0.5, gt=0, lt=1, description="Of `jsd` only: near 0 like `forward_kl`, near 1 `reverse_kl`."
    )
    temperature: float = Field(
        1.0, gt=0, description="Softens both distributions; the loss is scaled by its square."
    )
    top_k: int = Field(
        32, ge=1, description="Likeliest tokens kept of each distribution; the others are one sum."
    )
    weight: float = Field(
        0.5, gt=0, le=1, description="Share of the divergence; the rest is the loss of the answer."
    )
    hidden: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance between hidden states, added to the loss: each layer "
        "of the student is held to one of the teacher, which stays in memory (FitNets, Romero et "
        "al. 2015, arXiv:1412.6550). Needs the same tokens on both sides.",
    )
    attention: Relations = Field(
        Relations(), description="Self-attention held to the teacher's, which stays in memory."
    )
    on_policy: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the rows that the student answers itself, anew in every step; the "
        "teacher, which stays in memory, then judges each token of these answers. Needs `weight` "
        "1.",
    )

    @model_validator(mode="after")
    def _learns_no_own_words(self) -> "Distillation":
        if self.on_policy and self.weight != 1:
            raise ValueError(
                "on_policy would learn the student's own words as answers: set weight 1"
            )
        return self

    @property
    def imitates(self) -> bool:
        """Whether the inside of the teacher is compared in every step, and not its words only."""
        return bool(self.hidden or self.attention.weight)

    @model_validator(mode="after")
    def _imitates_given_answers(self) -> "Distillation":
        if self.imitates and self.on_policy:
            raise ValueError("hidden and attention are compared on given answers: set on_policy 0")
        return self

    @model_validator(mode="after")
    def _mixes_only_the_jsd(self) -> "Distillation":
        if "beta" in self.model_fields_set and self.divergence != "jsd" and self.beta != 0.5:
            raise ValueError("beta is for divergence jsd")
        return self


class Teacher(Answerer):
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


class Distil(Section):
    """A teacher answers the rows' questions, and a student learns the answers."""

    teacher: Teacher = Field(Teacher(), description="Who answers.")
    teachers: tuple[Teacher, ...] = Field(
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
    thoughts: Literal["cut", "keep", "ask"] = Field(
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
    pieces: int | None = Field(
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
    grow: int = Field(
        0,
        ge=0,
        description="New questions that the teacher makes after the training rows' own and then "
        "answers; 0: none.",
    )
    evolve: int = Field(
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
    def cuts(self) -> tuple[str, ...]:
        """What the student is cut to before it learns, in words."""
        sizes = {
            "layers": self.layers,
            "neurons": self.neurons,
            "heads": self.heads,
            "pieces": self.pieces,
        }
        return tuple(f"{size} {name}" for name, size in sizes.items() if size is not None)
