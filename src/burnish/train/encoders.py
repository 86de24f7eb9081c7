"""What models learn that are no language models: the table."""

from burnish.train.classify import CLASSIFY
from burnish.train.course import Course
from burnish.train.embed import EMBED
from burnish.train.seq2seq import SEQ2SEQ
from burnish.train.token_classify import TOKEN_CLASSIFY
from burnish.train.valuing import VALUING

#: `train.objective.kind` → how it is trained; all other objectives train language models.
ENCODERS: dict[str, Course] = {
    "classify": CLASSIFY,
    "token_classify": TOKEN_CLASSIFY,
    "embed": EMBED,
    "reward": VALUING,
    "seq2seq": SEQ2SEQ,
}
