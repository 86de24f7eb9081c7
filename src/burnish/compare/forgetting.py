"""What was lost: a small general set asked before and after.

A fine-tune can forget what the base could do. Fifty multiple-choice questions on everyday facts,
arithmetic, language and following an instruction are asked of both; chance alone gives a quarter.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from burnish.core.records import Interval, Message, Prompt
from burnish.core.stats import PairedTest, mean_interval, paired_test
from burnish.engines.protocol import Engine


@dataclass(frozen=True, slots=True)
class Question:
    """One general question; the first choice is the right one."""

    kind: str
    ask: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forgetting:
    """How the base and the fine-tune answer the general set, and which they lost or gained."""

    before: Interval
    after: Interval
    change: PairedTest
    lost: tuple[str, ...]
    words: str


def general_set() -> list[Question]:
    """The questions of forgetting.toml."""
    source = Path(__file__).with_name("forgetting.toml").read_text(encoding="utf-8")
    return [
        Question(entry["kind"], entry["ask"], tuple(entry["choices"]))
        for entry in tomllib.loads(source)["question"]
    ]


def general_scores(engine: Engine, questions: Sequence[Question]) -> list[float]:
    """1 for each question that the engine answers rightly, choosing among its choices."""
    prompts = [
        Prompt((Message("user", question.ask),), choices=tuple(sorted(question.choices)))
        for question in questions
    ]
    answers = engine.answer(prompts)
    return [
        float(answer.text == question.choices[0])
        for answer, question in zip(answers, questions, strict=True)
    ]


def what_was_lost(
    before: Sequence[float], after: Sequence[float], questions: Sequence[Question]
) -> Forgetting:
    """Compare the two, question by question."""
    change = paired_test(after, before)
    lost = tuple(
        question.ask
        for question, was, now in zip(questions, before, after, strict=True)
        if was > now
    )
    drop = paired_test(before, after)
    points = 100 * change.gain.value
    sure = "a real loss" if drop.p_value < 0.05 else "within what luck gives"
    words = (
        f"On {len(questions)} general questions the base has {sum(before):.0f} right and the "
        f"fine-tune {sum(after):.0f} ({points:+.0f} points; {sure})."
    )
    return Forgetting(mean_interval(before), mean_interval(after), change, lost, words)
