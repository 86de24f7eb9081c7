"""Each task's metric, constraint and instruction: the table TASKS."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from burnish.core.errors import BadData
from burnish.core.json_text import BadJson, parse_json
from burnish.core.reasoning import join_reasoning
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Message, Prompt, Row

#: Number of the longest training answers that are counted in tokens.
_MEASURED_ANSWERS = 64


def _name_labels(task: Task, rows: Sequence[Row]) -> str:
    return f"Answer with exactly one of these labels: {', '.join(task.labels)}."


def _name_keys(task: Task, rows: Sequence[Row]) -> str:
    keys = dict.fromkeys(key for row in rows for key in _json_keys(row.answer))
    return f"Answer with one JSON object with these keys and nothing else: {', '.join(keys)}."


def _name_spans(task: Task, rows: Sequence[Row]) -> str:
    labels = sorted({span.label for row in rows for span in row.spans or ()})
    return (
        'Find the spans of the text and answer with a JSON list of {"text": ..., "label": ...} in '
        f"their order and nothing else, [] for none. Labels: {', '.join(labels)}."
    )


def _be_brief(task: Task, rows: Sequence[Row]) -> str:
    return "Answer with as few words as possible and nothing else."


def _no_instruction(task: Task, rows: Sequence[Row]) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class TaskKind:
    """The default deciding metric, whether answers are constrained to labels, and the instruction
    that a competent person would give a model that hasn't been trained on the rows."""

    metric: str
    constrained: bool
    instruction: Callable[[Task, Sequence[Row]], str]


TASKS = {
    "classification": TaskKind("accuracy", True, _name_labels),
    "extraction": TaskKind("field_f1", False, _name_keys),
    "spans": TaskKind("span_f1", False, _name_spans),
    "qa": TaskKind("token_f1", False, _be_brief),
    "generation": TaskKind("rouge_l", False, _no_instruction),
}


def deciding_metric(task: Task, settings: Evaluate) -> str:
    """Return the recipe's metric, or the task's own. With a judge, answers are first scored by the
    task's own (evaluate/judge_calibration.py)."""
    use_default = settings.metric in ("auto", "graded")
    return TASKS[task.kind].metric if use_default else settings.metric


def refuse_unanswerable(rows: Sequence[Row]) -> None:
    """Raise BadData if a row has no question or no answer to score against, or if there are no
    rows."""
    if not rows:
        raise BadData("There are no test rows.", "Name a test file, or raise data.test_share.")
    for row in rows:
        if not row.answer and any(turn.tool_calls for turn in row.messages[-1:]):
            raise BadData(
                f"{row.id}: the row ends in a tool call, which can't be scored.",
                "Use such rows for training only, or end them with the final answer.",
            )
        if not row.prompt or not row.answer:
            raise BadData(
                f"{row.id}: the row has no question with an answer to score against.",
                "Test rows are conversations, pairs or labelled texts; plain text can be trained "
                "on (burnish train) but not compared.",
            )


def answer_length(
    rows: Sequence[Row], settings: Evaluate, count: Callable[[Sequence[Message]], int]
) -> int:
    """Return the token limit of an answer: half more than the longest training answer.

    `count` counts the tokens of rendered messages.
    """
    if settings.max_new_tokens:
        return settings.max_new_tokens
    answers = {row.answer for row in rows}
    return max(16, _token_limit(answers, count, otherwise=256))


def reasoning_length(rows: Sequence[Row], count: Callable[[Sequence[Message]], int]) -> int:
    """Return the token limit of the reasoning, tags included: half more than the longest of the
    rows; 0 if no row has any. Counted as in `answer_length`."""
    reasonings = {
        join_reasoning(message.reasoning, "") for row in rows for message in row.messages
    } - {""}
    return _token_limit(reasonings, count, otherwise=0)


def _token_limit(
    texts: Collection[str], count: Callable[[Sequence[Message]], int], otherwise: int
) -> int:
    if not texts:
        return otherwise
    longest = sorted(texts, key=lambda text: len(text.encode()), reverse=True)[:_MEASURED_ANSWERS]
    frame = count((Message("user", ""),))
    tokens = max(count((Message("user", text),)) - frame for text in longest)
    return math.ceil(1.5 * tokens / 8) * 8


def as_prompt(row: Row, task: Task, max_new_tokens: int, reasoning_tokens: int = 0) -> Prompt:
    """Return the prompt of a row. With `reasoning_tokens`, the limit is raised by them and the
    labels don't constrain the answer, as that would prevent reasoning."""
    choices = task.labels if TASKS[task.kind].constrained and not reasoning_tokens else ()
    limit = max_new_tokens + reasoning_tokens
    return Prompt(row.prompt, max_new_tokens=limit, choices=choices, tools=row.tools)


def with_instruction(prompt: Prompt, text: str) -> Prompt:
    """Return the prompt with `text` at the end of its system message (or as one); unchanged if
    empty."""
    if not text:
        return prompt
    first, *rest = prompt.messages
    if first.role == "system":
        system = replace(first, content=f"{first.content}\n\n{text}")
        return replace(prompt, messages=(system, *rest))
    return replace(prompt, messages=(Message("system", text), *prompt.messages))


def with_examples(prompt: Prompt, rows: Sequence[Row]) -> Prompt:
    """Return the prompt with rows as earlier turns, between its system message and its question."""
    system = prompt.messages[:1] if prompt.messages[0].role == "system" else ()
    question = prompt.messages[len(system) :]
    examples = [message for row in rows for message in row.messages if message.role != "system"]
    return replace(prompt, messages=(*system, *examples, *question))


def _json_keys(answer: str) -> list[str]:
    try:
        value = parse_json(answer)
    except BadJson:
        return []
    return list(value) if isinstance(value, dict) else []
