"""What a task means for asking and scoring: the table TASKS."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish.core.records import Message, Prompt, Row
from burnish.core.sections import Evaluate, Task

#: Answers in training may be this many characters a token at the least; used to bound an answer.
_CHARACTERS_A_TOKEN = 2.0


@dataclass(frozen=True, slots=True)
class TaskKind:
    """The metric that decides by default, and whether answers are one of the labels."""

    metric: str
    constrained: bool = False


TASKS = {
    "classification": TaskKind("accuracy", constrained=True),
    "extraction": TaskKind("field_f1"),
    "qa": TaskKind("token_f1"),
    "generation": TaskKind("rouge_l"),
}


def deciding_metric(task: Task, settings: Evaluate) -> str:
    """The recipe's metric, or the task's own."""
    return TASKS[task.kind].metric if settings.metric == "auto" else settings.metric


def answer_length(rows: Sequence[Row], settings: Evaluate) -> int:
    """Tokens that an answer may have: half more than the longest training answer needs."""
    if settings.max_new_tokens:
        return settings.max_new_tokens
    longest = max((len(row.answer) for row in rows), default=256)
    return max(16, math.ceil(1.5 * longest / _CHARACTERS_A_TOKEN / 8) * 8)


def as_prompt(row: Row, task: Task, max_new_tokens: int) -> Prompt:
    """The question of a row, without its answer."""
    choices = task.labels if TASKS[task.kind].constrained else ()
    return Prompt(row.prompt, max_new_tokens=max_new_tokens, choices=choices, tools=row.tools)


def with_form(prompt: Prompt, task: Task, train: Sequence[Row]) -> Prompt:
    """The prompt told what form an answer has: the labels, or the keys of the JSON object.

    A model that wasn't trained on the rows can't know them otherwise.
    """
    if task.kind == "classification":
        return _told(prompt, f"Answer with exactly one of these labels: {', '.join(task.labels)}.")
    if task.kind == "extraction":
        keys = dict.fromkeys(key for row in train for key in _keys(row.answer))
        return _told(prompt, f"Answer with one JSON object with the keys: {', '.join(keys)}.")
    return prompt


def _told(prompt: Prompt, text: str) -> Prompt:
    """The prompt with `text` at the end of its system message (or as one)."""
    first, *rest = prompt.messages
    if first.role == "system":
        told = replace(first, content=f"{first.content}\n\n{text}")
        return replace(prompt, messages=(told, *rest))
    return replace(prompt, messages=(Message("system", text), *prompt.messages))


def _keys(answer: str) -> list[str]:
    try:
        value = json.loads(answer)
    except json.JSONDecodeError:
        return []
    return list(value) if isinstance(value, dict) else []


def with_examples(prompt: Prompt, rows: Sequence[Row]) -> Prompt:
    """The prompt with rows as earlier turns, between its system message and its question."""
    system = prompt.messages[:1] if prompt.messages[0].role == "system" else ()
    asked = prompt.messages[len(system) :]
    shown = [message for row in rows for message in row.messages if message.role != "system"]
    return replace(prompt, messages=(*system, *shown, *asked))
