"""Differences between the exported and the trained model's answers, question by question."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.recipe.export import Export
from burnish.core.records import clusters_of
from burnish.core.stats import loss_bound
from burnish.evaluate.metrics import CORPUS_METRICS, METRICS
from burnish.export.parity.clients import ServedAnswer
from burnish.export.parity.questions import GateQuestions, TrainedAnswers
from burnish.models.chat_template import encode_text


@dataclass(frozen=True, slots=True)
class MetricChange:
    """The metric before and after, and the upper confidence bound of the loss, with its budget."""

    metric: str
    trained: float
    exported: float
    loss_at_most: float
    budget: float
    changed: int
    n: int

    @property
    def ok(self) -> bool:
        """Whether the loss is surely within the budget. Equal answers to few questions don't show
        it: 30 of them come from an export that spoils 3 % of answers in 40 % of draws."""
        return self.loss_at_most <= self.budget


def compare_metric(
    questions: GateQuestions,
    before: Sequence[ServedAnswer],
    after: Sequence[ServedAnswer],
    settings: Export,
) -> MetricChange:
    """Compare the metric on the same questions before and after."""
    score = METRICS[questions.metric]
    old, new = (
        [
            score(row.answer, reply.answer_text)
            for row, reply in zip(questions.rows, side, strict=True)
        ]
        for side in (before, after)
    )
    mean = sum(old) / len(old)
    changed = sum(a.text != b.text for a, b in zip(before, after, strict=True))
    budget = min(settings.points, settings.relative * mean)
    return MetricChange(
        metric=questions.metric,
        trained=mean,
        exported=sum(new) / len(new),
        loss_at_most=loss_bound(old, new, settings.confidence, clusters_of(questions.rows)),
        budget=budget if changed else max(budget, settings.points_if_equal),
        changed=changed,
        n=len(old),
    )


_ANSWER_MODES = {"free": "answering freely", "labels_only": "constrained to the labels"}


def explain_excess_loss(name: str, change: MetricChange, settings: Export) -> str:
    """Explain why a change isn't within the budget: it is too large, or too few questions were
    asked."""
    loss = change.trained - change.exported
    what = (
        f"{change.metric} {_ANSWER_MODES[name]} went from {change.trained:.1%} "
        f"to {change.exported:.1%}"
    )
    bound = f"with {settings.confidence:.0%} certainty at most {100 * change.loss_at_most:.1f}"
    if loss > change.budget:
        return (
            f"{what}: {100 * loss:.1f} points lost ({bound}), of {100 * change.budget:.1f} allowed."
        )
    if not change.changed:
        binding = "points_if_equal"
    else:
        binding = "points" if change.budget >= settings.points else "relative"
    return (
        f"{what}, but {change.n} questions can't show that the loss is within "
        f"{100 * change.budget:.1f} points ({bound}): ask more (--set export.rows=...), "
        f"or allow more (--set export.{binding}=...)."
    )


def count_defects(
    questions: GateQuestions,
    before: Sequence[ServedAnswer],
    after: Sequence[ServedAnswer],
    settings: Export,
    against: list[str],
) -> dict[str, Any]:
    """Count answers that are empty, unfinished, or lack the task's form, on both sides."""
    checks = {
        "empty": lambda reply: not reply.answer_text.strip(),
        "unfinished": lambda r: not r.complete,
    }
    if questions.has_labels:
        labels = set(questions.task.labels)
        checks["not_a_label"] = lambda reply: reply.answer_text.strip() not in labels
    elif "json_validity" in CORPUS_METRICS[questions.task.kind]:
        valid = CORPUS_METRICS[questions.task.kind]["json_validity"]
        checks["not_json"] = lambda reply: not valid([""], [reply.answer_text])
    counts = {
        name: {
            "trained": sum(check(reply) for reply in before),
            "exported": sum(check(reply) for reply in after),
        }
        for name, check in checks.items()
    }
    for name, count in counts.items():
        more = (count["exported"] - count["trained"]) / len(after)
        if more > settings.points:
            words = name.replace("_", " ")
            against.append(
                f"{count['exported']} answers are {words}; {count['trained']} of the trained "
                "model's were."
            )
    return counts


def token_agreement(
    tokenizer: PreTrainedTokenizerBase,
    before: Sequence[ServedAnswer],
    after: Sequence[ServedAnswer],
) -> float:
    """Return the share of the trained model's tokens before the first difference."""
    same = total = 0
    for old, new in zip(before, after, strict=True):
        trained_tokens, exported_tokens = (
            encode_text(tokenizer, old.text),
            encode_text(tokenizer, new.text),
        )
        total += max(len(trained_tokens), len(exported_tokens), 1)
        position = 0
        while (
            position < min(len(trained_tokens), len(exported_tokens))
            and trained_tokens[position] == exported_tokens[position]
        ):
            position += 1
        same += position if trained_tokens != exported_tokens else max(len(trained_tokens), 1)
    return same / total


def changed_labels(
    questions: GateQuestions, trained: TrainedAnswers, replies: Sequence[ServedAnswer]
) -> list[dict[str, Any]]:
    """Return the labels whose score changed, the most damaged first."""
    if not questions.has_labels:
        return []
    score = METRICS[questions.metric]
    n: Counter[str] = Counter()
    old: Counter[str] = Counter()
    new: Counter[str] = Counter()
    for row, before, after in zip(questions.rows, trained.free, replies, strict=True):
        n[row.answer] += 1
        old[row.answer] += int(score(row.answer, before.answer_text))
        new[row.answer] += int(score(row.answer, after.answer_text))
    changed = [label for label in n if old[label] != new[label]]
    return [
        {"label": label, "n": n[label], "trained": old[label], "exported": new[label]}
        for label in sorted(changed, key=lambda label: new[label] - old[label])
    ]
