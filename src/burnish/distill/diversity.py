"""What is learnt, looked at as a whole: a teacher can be right row by row and still leave labels
out, say everything at twice the length, or make a hundred questions that are one.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from burnish.core.recipe.data import Task
from burnish.core.records import Row
from burnish.data.duplicates import normalize_text, question_text

#: Below this share of what people's questions have, new ones repeat themselves.
_ALIKE = 0.8
#: A label that the teacher gives so many times as often as people do is its favourite.
_FAVOURED = 2.0
#: Fewer rows than this show no proportion.
_FEWEST = 30


@dataclass(frozen=True, slots=True)
class Diversity:
    """`labels` counts what is learnt, `own_labels` what people gave to the same rows; `words` are
    medians of the answers' lengths, the teacher's and people's; `pairs` the share of different word
    pairs (Distinct-2, Li et al. 2016, arXiv:1510.03055) in the questions that were made and in as
    many of people's. None where there is nothing to compare."""

    labels: dict[str, int]
    own_labels: dict[str, int]
    words: tuple[float, float] | None
    pairs: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish distill --json` prints."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """What a person should know before the student learns it."""
        found = []
        if missing := [label for label, count in self.labels.items() if not count]:
            named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            found.append(f"No row with {len(missing)} of {len(self.labels)} labels: {named}.")
        if favourite := self._overused_label():
            found.append(favourite)
        if self.pairs and self.pairs[0] < _ALIKE * self.pairs[1]:
            found.append(
                f"The new questions repeat themselves: {self.pairs[0]:.0%} of their word pairs are "
                f"different, of people's {self.pairs[1]:.0%}. Begin with more seeds, or raise "
                "distill.teacher.temperature."
            )
        return found

    def facts(self) -> dict[str, str]:
        """Lines for the report."""
        found = {}
        if self.labels:
            given = sum(count > 0 for count in self.labels.values())
            label, most = max(self.labels.items(), key=lambda item: item[1])
            share = most / max(sum(self.labels.values()), 1)
            found["Labels learnt"] = (
                f"{given} of {len(self.labels)}; most often {label}, {share:.0%}"
            )
        if self.words:
            found["Words of an answer, median"] = (
                f"{self.words[0]:.0f}; people's {self.words[1]:.0f}"
            )
        if self.pairs:
            found["Different word pairs in new questions"] = (
                f"{self.pairs[0]:.0%}; in as many of people's {self.pairs[1]:.0%}"
            )
        return found

    def _overused_label(self) -> str:
        """A label that the teacher gives far more often than people gave it to the same rows."""
        total, known = sum(self.labels.values()), sum(self.own_labels.values())
        if min(total, known) < _FEWEST:
            return ""
        label, count = max(
            self.labels.items(),
            key=lambda item: item[1] / total - self.own_labels.get(item[0], 0) / known,
        )
        theirs = self.own_labels.get(label, 0) / known
        if count < _FEWEST or count / total < _FAVOURED * theirs:
            return ""
        return (
            f"The teacher gives {label} to {count / total:.0%} of the rows; people to {theirs:.0%}."
        )


def compute_diversity(
    learnt: Sequence[Row], original: Sequence[Row], task: Task, seed: int
) -> Diversity:
    """`learnt` rows with the teacher's answers, beside people's `own`, whose ids they have where
    the question is theirs; questions of other ids were made."""
    asked = {row.id for row in original}
    answered = [row for row in original if row.answer]
    same = {row.id for row in learnt} & {row.id for row in answered}
    is_labelled = task.kind == "classification"
    return Diversity(
        labels=_count_labels([row.answer for row in learnt], task) if is_labelled else {},
        own_labels=_count_labels([row.answer for row in answered if row.id in same], task)
        if is_labelled
        else {},
        words=None
        if is_labelled or not (learnt and answered)
        else (_median_length(learnt), _median_length(answered)),
        pairs=_distinct_pairs([row for row in learnt if row.id not in asked], original, seed),
    )


def _count_labels(answers: Sequence[str], task: Task) -> dict[str, int]:
    counts = Counter(answers)
    return {label: counts[label] for label in task.labels}


def _median_length(rows: Sequence[Row]) -> float:
    return median(len(row.answer.split()) for row in rows)


def _distinct_pairs(
    made: Sequence[Row], own: Sequence[Row], seed: int
) -> tuple[float, float] | None:
    """Of as many rows on both sides: the share falls with the number of words by itself."""
    count = min(len(made), len(own))
    if count < _FEWEST:
        return None
    draw = random.Random(seed)
    return _distinct_share(draw.sample(list(made), count)), _distinct_share(
        draw.sample(list(own), count)
    )


def _distinct_share(rows: Sequence[Row]) -> float:
    pairs = [pair for row in rows for pair in pairwise(normalize_text(question_text(row)).split())]
    return len(set(pairs)) / max(len(pairs), 1)
