"""Diversity of the training rows as a whole: a teacher can be right row by row and still leave
labels out, answer at twice the length, or write a hundred paraphrases of one question."""

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

#: Below this share of the distinct word pairs in people's questions, new ones are repetitive.
_ALIKE = 0.8
#: A label that the teacher gives this many times as often as people is overused.
_FAVOURED = 2.0
#: Fewer rows than this allow no proportions.
_FEWEST = 30


@dataclass(frozen=True, slots=True)
class Diversity:
    """`labels` counts the training rows' labels, `own_labels` people's for the same rows; `words`
    are median answer lengths, the teacher's and people's; `pairs` the share of distinct word pairs
    (Distinct-2, Li et al. 2016, arXiv:1510.03055) in generated questions and in as many of
    people's. None where there is nothing to compare."""

    labels: dict[str, int]
    own_labels: dict[str, int]
    words: tuple[float, float] | None
    pairs: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish distill --json` prints."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """Return what a person should know before the student is trained."""
        warnings = []
        if missing := [label for label, count in self.labels.items() if not count]:
            names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            warnings.append(f"No row with {len(missing)} of {len(self.labels)} labels: {names}.")
        if overused := self._overused_label():
            warnings.append(overused)
        if self.pairs and self.pairs[0] < _ALIKE * self.pairs[1]:
            warnings.append(
                f"The new questions are repetitive: {self.pairs[0]:.0%} of their word pairs are "
                f"distinct, of people's {self.pairs[1]:.0%}. Start from more seeds, or raise "
                "distill.teacher.temperature."
            )
        return warnings

    def facts(self) -> dict[str, str]:
        """Return lines for the report."""
        lines = {}
        if self.labels:
            used = sum(count > 0 for count in self.labels.values())
            label, count = max(self.labels.items(), key=lambda item: item[1])
            share = count / max(sum(self.labels.values()), 1)
            lines["Labels trained"] = (
                f"{used} of {len(self.labels)}; most often {label}, {share:.0%}"
            )
        if self.words:
            lines["Words of an answer, median"] = (
                f"{self.words[0]:.0f}; people's {self.words[1]:.0f}"
            )
        if self.pairs:
            lines["Different word pairs in new questions"] = (
                f"{self.pairs[0]:.0%}; in as many of people's {self.pairs[1]:.0%}"
            )
        return lines

    def _overused_label(self) -> str:
        """Return a warning about a label that the teacher gives far more often than people did."""
        total, own_total = sum(self.labels.values()), sum(self.own_labels.values())
        if min(total, own_total) < _FEWEST:
            return ""
        label, count = max(
            self.labels.items(),
            key=lambda item: item[1] / total - self.own_labels.get(item[0], 0) / own_total,
        )
        people_share = self.own_labels.get(label, 0) / own_total
        if count < _FEWEST or count / total < _FAVOURED * people_share:
            return ""
        return (
            f"The teacher gives {label} to {count / total:.0%} of the rows; people to "
            f"{people_share:.0%}."
        )


def compute_diversity(
    training_rows: Sequence[Row], original: Sequence[Row], task: Task, seed: int
) -> Diversity:
    """Compare `training_rows`, with the teacher's answers, with people's `original` rows.

    Rows share their ids with the original question; rows of other ids were generated.
    """
    original_ids = {row.id for row in original}
    answered = [row for row in original if row.answer]
    shared_ids = {row.id for row in training_rows} & {row.id for row in answered}
    is_labelled = task.kind == "classification"
    return Diversity(
        labels=_count_labels([row.answer for row in training_rows], task) if is_labelled else {},
        own_labels=_count_labels([row.answer for row in answered if row.id in shared_ids], task)
        if is_labelled
        else {},
        words=None
        if is_labelled or not (training_rows and answered)
        else (_median_length(training_rows), _median_length(answered)),
        pairs=_distinct_pairs(
            [row for row in training_rows if row.id not in original_ids], original, seed
        ),
    )


def _count_labels(answers: Sequence[str], task: Task) -> dict[str, int]:
    counts = Counter(answers)
    return {label: counts[label] for label in task.labels}


def _median_length(rows: Sequence[Row]) -> float:
    return median(len(row.answer.split()) for row in rows)


def _distinct_pairs(
    generated: Sequence[Row], original: Sequence[Row], seed: int
) -> tuple[float, float] | None:
    """Return the shares for equally many rows on both sides: the share falls with the number of
    words."""
    count = min(len(generated), len(original))
    if count < _FEWEST:
        return None
    generator = random.Random(seed)
    return _distinct_share(generator.sample(list(generated), count)), _distinct_share(
        generator.sample(list(original), count)
    )


def _distinct_share(rows: Sequence[Row]) -> float:
    pairs = [pair for row in rows for pair in pairwise(normalize_text(question_text(row)).split())]
    return len(set(pairs)) / max(len(pairs), 1)
