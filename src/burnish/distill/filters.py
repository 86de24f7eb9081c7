"""Checks of the teacher's answers before a student learns them: the table CHECKS.

A check returns the reason to drop a row, or nothing. Checks of single answers come first; those
that compare rows see only the remaining ones. What counts as an answer to the task is what `burnish
evaluate` would score.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from burnish.core.json_text import BadJson, parse_json
from burnish.core.recipe.data import Task
from burnish.core.records import Row
from burnish.data.check import find_leaks
from burnish.data.duplicates import find_near_pairs, question_text
from burnish.distill.teacher_answers import TeacherExample
from burnish.engines.answerers.protocol import AnswererReply
from burnish.evaluate.text import unfenced

#: How refusals of common assistants begin.
_REFUSAL = re.compile(
    r"(i['’]?m sorry|i am sorry|sorry,|i apologi[sz]e|i can['’]?t|i cannot|i can not|"
    r"i['’]?m unable|i am unable|i['’]?m not able|i won['’]?t|as an ai|unfortunately, i)",
    re.IGNORECASE,
)
#: An answer this many times longer than people's longest is dropped.
_TOO_LONG = 4
#: Minimum number of people's answers to derive a length limit from.
_KNOWN_ANSWERS = 20
#: Tasks whose answers have an exact form, up to surrounding space.
_EXACT = ("classification", "extraction")


@dataclass(frozen=True, slots=True)
class AnswerNorms:
    """Properties of the rows' own answers; a property that they don't show isn't required."""

    task: Task
    keys: frozenset[str]
    longest: int | None
    refuses: bool


def answer_norms(rows: Sequence[Row], task: Task) -> AnswerNorms:
    """Derive the norms from the rows' own answers."""
    answers = [row.answer for row in rows if row.answer]
    objects = [value for answer in answers if (value := _parse_object(answer)) is not None]
    keys = frozenset.intersection(*map(frozenset, objects)) if objects else frozenset()
    longest = max(map(len, answers)) if len(answers) >= _KNOWN_ANSWERS else None
    return AnswerNorms(
        task, keys, longest, any(_REFUSAL.match(answer.lstrip()) for answer in answers)
    )


def _empty(reply: AnswererReply, norms: AnswerNorms) -> str:
    if reply.text.strip():
        return ""
    return "the teacher reasoned and gave no answer" if reply.thought else "the answer is empty"


def _cut_short(reply: AnswererReply, norms: AnswerNorms) -> str:
    return "the answer was cut short" if reply.finish_reason == "length" else ""


def _refusal(reply: AnswererReply, norms: AnswerNorms) -> str:
    refused = not norms.refuses and _REFUSAL.match(reply.text.lstrip())
    return "the teacher refused" if refused else ""


def _no_label(reply: AnswererReply, norms: AnswerNorms) -> str:
    if norms.task.kind != "classification" or reply.text in norms.task.labels:
        return ""
    return f"`{reply.text[:60]}` is not a label"


def _no_object(reply: AnswererReply, norms: AnswerNorms) -> str:
    if norms.task.kind != "extraction":
        return ""
    value = _parse_object(reply.text)
    if value is None:
        return "the answer is not a JSON object"
    missing = sorted(norms.keys - set(value))
    return f"the object lacks {', '.join(missing)}" if missing else ""


def _too_long(reply: AnswererReply, norms: AnswerNorms) -> str:
    if norms.longest is None or len(reply.text) <= _TOO_LONG * norms.longest:
        return ""
    return f"the answer is over {_TOO_LONG} times as long as any that people gave"


#: The checks of every single answer, in this order.
CHECKS: dict[str, Callable[[AnswererReply, AnswerNorms], str]] = {
    "empty": _empty,
    "cut_short": _cut_short,
    "refusal": _refusal,
    "label": _no_label,
    "json": _no_object,
    "length": _too_long,
}


def why_unlearnable(answer: str, task: Task) -> str:
    """Return why an answer can't be trained on, independent of who gave it; empty if it can."""
    norms = AnswerNorms(task, frozenset(), None, refuses=True)
    checks = (_empty, _no_label, _no_object)
    return next((reason for check in checks if (reason := check(AnswererReply(answer), norms))), "")


def check_examples(
    examples: Sequence[TeacherExample],
    norms: AnswerNorms,
    test: Sequence[Row],
    near: tuple[float, float],
    decide: Callable[[TeacherExample], TeacherExample] = lambda example: example,
) -> list[TeacherExample]:
    """Return the examples, each with the reason to drop it, if any.

    `near` are the Jaccard similarities above which a row repeats an earlier one, and above which
    its question leaks from the test rows. `decide` may overrule the checks of a single answer; not
    the later ones: a test question is dropped in any case.
    """
    checked = [_strip_wrapping(example, norms) for example in examples]
    checked = [decide(_apply_checks(example, norms)) for example in checked]
    checked = _drop(
        checked, _find_leaks(checked, test, near[1]), "the question is in the test rows"
    )
    return _drop(
        checked, _find_repeats(checked, norms, near[0]), "another row says nearly the same"
    )


def _strip_wrapping(example: TeacherExample, norms: AnswerNorms) -> TeacherExample:
    """Strip space and a code fence around answers that are labels or objects."""
    if example.dropped or norms.task.kind not in _EXACT:
        return example
    replies = _strip_replies(example.replies)
    opinions = tuple(
        replace(opinion, replies=_strip_replies(opinion.replies)) for opinion in example.opinions
    )
    stripped = replace(example, replies=replies, opinions=opinions)
    return stripped.with_answer(replies[-1].text, example.reasoning)


def _strip_replies(replies: Sequence[AnswererReply]) -> tuple[AnswererReply, ...]:
    return tuple(replace(reply, text=_strip_fence(reply.text)) for reply in replies)


def _apply_checks(example: TeacherExample, norms: AnswerNorms) -> TeacherExample:
    if example.dropped:
        return example
    reasons = (check(reply, norms) for reply in example.replies for check in CHECKS.values())
    reason = next((reason for reason in reasons if reason), "")
    return replace(example, dropped=reason, disputed=bool(reason))


def _find_leaks(examples: Sequence[TeacherExample], test: Sequence[Row], near: float) -> set[str]:
    rows = [example.row for example in examples if not example.dropped]
    exact, close = find_leaks(rows, test, near)
    return {row.id for row in (*exact, *close)}


def _find_repeats(examples: Sequence[TeacherExample], norms: AnswerNorms, near: float) -> set[str]:
    """Return rows whose question and answer repeat an earlier row's; with another label it is
    another row."""
    rows = [example.row for example in examples if not example.dropped]
    pairs = find_near_pairs([f"{question_text(row)}\n{row.answer}" for row in rows], near)
    exact = norms.task.kind in _EXACT
    return {
        rows[second].id
        for first, second in pairs
        if not exact or rows[first].answer == rows[second].answer
    }


def _drop(examples: Sequence[TeacherExample], ids: set[str], reason: str) -> list[TeacherExample]:
    return [
        replace(example, dropped=reason)
        if not example.dropped and example.row.id in ids
        else example
        for example in examples
    ]


def _strip_fence(text: str) -> str:
    return unfenced(text).strip()


def _parse_object(text: str) -> dict[str, object] | None:
    try:
        value = parse_json(text)
    except BadJson:
        return None
    return value if isinstance(value, dict) else None
