"""What models learn that are no language models, as values of `train.objective`: labels of texts
or of their words, vectors of texts, what an answer is worth, or a text from a text."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from burnish.core.recipe.rewards import MetricReward, Reward
from burnish.core.recipe.section import Section, kind_or


class AttentionRelations(Section):
    """Which token of a row is like which other one, by its queries, its keys and its values: the
    student's last layer is held to a layer of the teacher (MiniLMv2, Wang et al. 2021,
    arXiv:2012.15828). Widths and numbers of heads may differ; the tokens must be the same."""

    weight: float = Field(0.0, ge=0, description="Weight beside the objective's loss; 0: not held.")
    layer: int | None = Field(
        None, ge=1, description="The teacher's layer, counted from 1; the last one if empty."
    )
    heads: int | None = Field(
        None,
        ge=1,
        description="Relation heads: into how many parts queries, keys and values are cut. If "
        "empty as many as the teacher has key-value heads, or the next fewer that divide all "
        "widths.",
    )


class Classify(Section):
    """A label for each text: a classification head on an encoder (Devlin et al. 2019,
    arXiv:1810.04805) or on a decoder."""

    kind: Literal["classify"] = "classify"
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="`balanced`: a label with few rows weighs more, n / (labels * its rows), so "
        "that all labels weigh the same together.",
    )
    teacher: str = Field(
        "",
        description="Another encoder with the student's tokens (a run or a model) for `hidden` and "
        "`attention`, in memory beside it; in `burnish distill`, the whole `model.name` if empty.",
    )
    hidden: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance between hidden states of all tokens, added to the "
        "loss: each layer is held to one of the teacher's (TinyBERT, Jiao et al. 2020, "
        "arXiv:1909.10351).",
    )
    attention: AttentionRelations = Field(
        AttentionRelations(), description="Self-attention held to the teacher's."
    )

    @property
    def matches_internals(self) -> bool:
        """Whether another encoder reads every text along."""
        return bool(self.hidden or self.attention.weight)


class TokenClassify(Section):
    """A label for each word, and so labelled spans of a text (named entities): a head on every
    token of an encoder (Devlin et al. 2019, arXiv:1810.04805) or of a decoder, which sees only what
    stands before a word."""

    kind: Literal["token_classify"] = "token_classify"
    subwords: Literal["first", "all"] = Field(
        "first",
        description="`first`: a word's first token bears its label, and the others aren't learnt; "
        "`all`: each token bears one, for scripts without spaces between words.",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="`balanced`: a tag with few words weighs more, n / (tags * its words).",
    )


class Embed(Section):
    """Vectors that lie near each other where texts belong together: an embedding model of one's
    own."""

    kind: Literal["embed"] = "embed"
    loss: Literal["ranking", "triplet", "contrastive"] = Field(
        "ranking",
        description="`ranking`: the right text among all of the step (van den Oord et al. 2018, "
        "arXiv:1807.03748); `triplet`: nearer than the nearest wrong one by a margin (Hermans et "
        "al. 2017, arXiv:1703.07737); `contrastive`: pairs pulled together, others pushed to the "
        "margin (Hadsell et al. 2006).",
    )
    scale: float = Field(20.0, gt=0, description="Factor of the cosines (`ranking` only).")
    margin: float = Field(
        0.5,
        gt=0,
        le=2,
        description="Distance of unit vectors, 0 to 2 (`triplet` and `contrastive` only).",
    )


class RewardObjective(Section):
    """What an answer is worth, from pairs of answers: a head on a model (Bradley & Terry 1952;
    Christiano et al. 2017, arXiv:1706.03741)."""

    kind: Literal["reward"] = "reward"


class Seq2Seq(Section):
    """Supervised fine-tuning of an encoder-decoder such as T5 or BART (Raffel et al. 2020,
    arXiv:1910.10683): the encoder reads all before the last answer, and cross-entropy is on the
    tokens of that answer only."""

    kind: Literal["seq2seq"] = "seq2seq"


class Sft(Section):
    """Supervised fine-tuning: cross-entropy on the assistant turns only."""

    kind: Literal["sft"] = "sft"


class Dpo(Section):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): pairs of answers."""

    kind: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        "sigmoid",
        description="`sigmoid` as in the paper; `ipo` holds back where all raters agree (Azar et "
        "al. 2023, arXiv:2310.12036); `hinge` stops at a margin (SLiC, arXiv:2305.10425).",
    )
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to where it began; lower moves more."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of the pairs that are taken to be the wrong way round (`sigmoid` only).",
    )

    @model_validator(mode="after")
    def _check_label_smoothing(self) -> "Dpo":
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError("label_smoothing is for loss sigmoid")
        return self


class Orpo(Section):
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): no reference."""

    kind: Literal["orpo"] = "orpo"
    beta: float = Field(
        0.1, gt=0, description="Weight of the odds ratio beside the loss of the preferred answer."
    )


class Simpo(Section):
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734): no reference."""

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0, description="Scale of the log-probability of a token.")
    gamma: float = Field(1.0, ge=0, description="Margin by which the preferred answer is to win.")


class Kto(Section):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): marked answers."""

    kind: Literal["kto"] = "kto"
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to where it began; lower moves more."
    )
    desirable_weight: float = Field(1.0, gt=0, description="Weight of a desirable answer's loss.")
    undesirable_weight: float = Field(
        1.0, gt=0, description="Weight of an undesirable answer's loss."
    )


class CustomLoss(Section):
    """A loss of one's own: a function in a Python file, which is run as it is."""

    kind: Literal["custom"] = "custom"
    file: Path = Field(description="The Python file.")
    function: str = Field("loss", description="The function: (answers, row, **settings) → loss.")
    settings: dict[str, bool | int | float | str] = Field(
        {}, description="Passed to the function by name."
    )


class Grpo(Section):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): the model answers
    each question several times, and learns from the answers whose reward is above the others'."""

    kind: Literal["grpo"] = "grpo"
    reward: Annotated[Annotated[Reward, Field(discriminator="kind")], kind_or("metric")] = Field(
        MetricReward(), description="What an answer is worth."
    )
    num_generations: int = Field(8, ge=2, description="Answers drawn to each question.")
    max_new_tokens: int = Field(
        0, ge=0, description="Longest answer; 0: half more than the rows' longest (256 without)."
    )
    num_generations_eval: int = Field(
        1, ge=1, description="Answers to a question of a validation; 1: the likeliest one."
    )
    temperature: float = Field(
        1.0, gt=0, description="Of the drawing; lower draws more alike and learns less."
    )
    beta: float = Field(
        0.04, ge=0, description="How strongly the model is held to where it began; 0 saves a pass."
    )
    num_iterations: int = Field(
        1, ge=1, description="Optimizer steps on the same answers before new ones are drawn."
    )
    epsilon: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="From the second of `num_iterations` on: how far a chance may move.",
    )
    epsilon_high: float | None = Field(
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


class Distillation(Section):
    """Learn a teacher's whole distribution over the next token, not only the token that it chose
    (Hinton et al. 2015, arXiv:1503.02531). The teacher is a local model; where its tokens are
    others than the student's, the two are matched by their text."""

    kind: Literal["distill"] = "distill"
    teacher: str = Field(
        "", description="A run or a model; in `burnish distill`, `distill.teacher.model` if empty."
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
    attention: AttentionRelations = Field(
        AttentionRelations(),
        description="Self-attention held to the teacher's, which stays in memory.",
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
    def _check_on_policy(self) -> "Distillation":
        if self.on_policy and self.weight != 1:
            raise ValueError(
                "on_policy would learn the student's own words as answers: set weight 1"
            )
        return self

    @property
    def matches_internals(self) -> bool:
        """Whether the inside of the teacher is compared in every step, and not its words only."""
        return bool(self.hidden or self.attention.weight)

    @model_validator(mode="after")
    def _check_internals(self) -> "Distillation":
        if self.matches_internals and self.on_policy:
            raise ValueError("hidden and attention are compared on given answers: set on_policy 0")
        return self

    @model_validator(mode="after")
    def _check_beta(self) -> "Distillation":
        if "beta" in self.model_fields_set and self.divergence != "jsd" and self.beta != 0.5:
            raise ValueError("beta is for divergence jsd")
        return self
