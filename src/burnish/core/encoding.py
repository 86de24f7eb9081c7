"""What models learn that are no language models, as values of `train.objective`: labels of texts
or of their words, vectors of texts, what an answer is worth, or a text from a text."""

from typing import Literal

from pydantic import Field

from burnish.core.relations import Relations
from burnish.core.section import Section


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
        "`attention`, in memory beside it; in `burnish distil`, the whole `model.name` if empty.",
    )
    hidden: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance between hidden states of all tokens, added to the "
        "loss: each layer is held to one of the teacher's (TinyBERT, Jiao et al. 2020, "
        "arXiv:1909.10351).",
    )
    attention: Relations = Field(Relations(), description="Self-attention held to the teacher's.")

    @property
    def imitates(self) -> bool:
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


class RewardModel(Section):
    """What an answer is worth, from pairs of answers: a head on a model (Bradley & Terry 1952;
    Christiano et al. 2017, arXiv:1706.03741)."""

    kind: Literal["reward"] = "reward"


class Seq2Seq(Section):
    """Supervised fine-tuning of an encoder-decoder such as T5 or BART (Raffel et al. 2020,
    arXiv:1910.10683): the encoder reads all before the last answer, and cross-entropy is on the
    tokens of that answer only."""

    kind: Literal["seq2seq"] = "seq2seq"
