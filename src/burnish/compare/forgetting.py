"""Forgetting: a small general question set asked before and after fine-tuning.

A fine-tune can forget what the base could do. Fifty multiple-choice questions on everyday facts,
arithmetic, language and following an instruction are asked of both, without the recipe's prompt.
The model chooses among four answers, so that scoring is exact; guessing gives a quarter.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from burnish.core.records import Interval, Message, Prompt, Row, Scores
from burnish.core.stats import PairedTest, minimum_detectable_gain, paired_test
from burnish.evaluate.scoring import PromptSet

_SET = Path(__file__).with_name("forgetting.toml")


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The general set's scores of base and fine-tune, the answers that were lost, and the smallest
    loss (a share) that a set of this size detects with 80 % power."""

    before: Interval
    after: Interval
    change: PairedTest
    lost: tuple[str, ...]
    visible: float
    words: str


def load_general_set(file: Path = _SET) -> PromptSet:
    """Load the questions of forgetting.toml as rows with their prompts; `type` is the kind."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    rows, prompts = [], []
    for number, entry in enumerate(content["question"], start=1):
        question = Message("user", f"{entry['ask']} {content['tell']}")
        answer = Message("assistant", entry["choices"][0])
        rows.append(Row((question, answer), type=entry["kind"], file=file.name, line=number))
        # Sorted, so that a choice's position says nothing about it.
        prompts.append(
            Prompt((question,), max_new_tokens=16, choices=tuple(sorted(entry["choices"])))
        )
    return PromptSet(rows, prompts)


def measure_forgetting(before: Scores, after: Scores, alpha: float = 0.05) -> Forgetting:
    """Compare the scores question by question. A loss is real if chance explains it with
    probability `alpha` or less.

    The interval of the change has the level of a one-sided test at `alpha` on either side.
    """
    change = paired_test(after.values, before.values, confidence=1 - 2 * alpha)
    drop = paired_test(before.values, after.values)
    visible = min(minimum_detectable_gain(after.values, before.values, alpha), 1.0)
    lost = tuple(
        was.prompt
        for was, now in zip(before.predictions, after.predictions, strict=True)
        if was.score > now.score
    )
    n, gain = change.gain.n, change.gain
    verdict = "a real loss" if drop.p_value < alpha else "no loss that luck couldn't explain"
    words = (
        f"On {n} general questions the base has {sum(before.values):.0f} right and the fine-tune "
        f"{sum(after.values):.0f}: {100 * gain.value:+.0f} points "
        f"({100 * gain.low:+.0f} to {100 * gain.high:+.0f}), {verdict}. "
        f"Losses of less than {100 * visible:.0f} points would often go unseen here."
    )
    return Forgetting(before.interval, after.interval, change, lost, visible, words)
