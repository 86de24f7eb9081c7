"""Infer the task from the rows, with a sentence that says why."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from burnish.core.json_text import BadJson, parse_json
from burnish.core.recipe.data import Task
from burnish.core.records import Row

_LABEL_WORDS, _SHORT_WORDS = 5, 6


def infer_task(rows: Sequence[Row], task: Task) -> tuple[Task, str]:
    """Return the task with kind and labels resolved, and why. Settings of the recipe are kept."""
    answers = [row.answer for row in rows if row.answer]
    kind: str = task.kind
    reason = "set by the recipe"
    if kind == "auto":
        kind, reason = _infer_kind(rows, answers)
    labels = task.labels
    if kind == "classification" and not labels:
        labels = tuple(sorted(Counter(answers)))
        reason += f"; {len(labels)} labels"
    resolved = task.model_copy(update={"kind": kind, "labels": labels})
    return resolved, f"Task: {kind} ({reason})."


def label_rows(rows: Sequence[Row], task: Task) -> tuple[Row, ...]:
    """Return classification rows with their label set to the answer."""
    if task.kind != "classification":
        return tuple(rows)
    return tuple(replace(row, label=row.label or row.answer or None) for row in rows)


def _infer_kind(rows: Sequence[Row], answers: Sequence[str]) -> tuple[str, str]:
    if not answers:
        is_plain = any(row.text for row in rows)
        return "generation", "the rows are plain text" if is_plain else "no row has an answer"
    if all(row.label is not None for row in rows):
        return "classification", "the rows have a label"
    if all(row.spans is not None for row in rows):
        return "spans", "the rows have labelled spans"
    if sum(_is_object(answer) for answer in answers) > 0.9 * len(answers):
        return "extraction", "the answers are JSON objects"
    words = [len(answer.split()) for answer in answers]
    distinct = len(set(answers))
    if max(words) <= _LABEL_WORDS and distinct * 3 <= len(answers):
        return "classification", f"{len(answers)} short answers repeat {distinct} texts"
    if statistics.median(words) <= _SHORT_WORDS:
        return "qa", f"half of the answers have at most {_SHORT_WORDS} words"
    return "generation", f"the answers have a median of {statistics.median(words):.0f} words"


def _is_object(answer: str) -> bool:
    try:
        return isinstance(parse_json(answer), dict)
    except BadJson:
        return False
