"""What encoders learn: the table."""

from burnish.train.classify import CLASSIFY
from burnish.train.course import Course
from burnish.train.embed import EMBED

#: `train.objective.kind` → how it is trained; all other objectives train language models.
ENCODERS: dict[str, Course] = {"classify": CLASSIFY, "embed": EMBED}
