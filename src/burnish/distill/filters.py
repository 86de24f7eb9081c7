"""What a teacher said is looked at before a student learns it: the table CHECKS.

A check gives the reason for which a row is dropped, or nothing. Checks of single answers come
first; those that compare rows see only what is left. What counts as an answer to the task is what
`burnish evaluate` would score.
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

#: How refusals begin, in the words of the usual assistants.
_REFUSAL = re.compile(
    r"(i['’]?m sorry|i am sorry|sorry,|i apologi[sz]e|i can['’]?t|i cannot|i can not|"
    r"i['’]?m unable|i am unable|i['’]?m not able|i won['’]?t|as an ai|unfortunately, i)",
    re.IGNORECASE,
)
#: An answer this many times longer than the longest that people gave is another kind of answer.
_TOO_LONG = 4
#: Answers that people gave, from which their usual length is known.
_KNOWN_ANSWERS = 20
#: Tasks whose answers have a form, in which every sign counts and space round them doesn't.
_EXACT = ("classification", "extraction")


@dataclass(frozen=True, slots=True)
class AnswerNorms:
    """What the rows' own answers are like; nothing is asked of what they don't show."""

    task: Task
    keys: frozenset[str]
    longest: int | None
    refuses: bool


def answer_norms(rows: Sequence[Row], task: Task) -> AnswerNorms:
    """The standard that the rows' own answers set."""
    answers = [row.answer for row in rows if row.answer]
    found = [value for answer in answers if (value := _parse_object(answer)) is not None]
    keys = frozenset.intersection(*map(frozenset, found)) if found else frozenset()
    longest = max(map(len, answers)) if len(answers) >= _KNOWN_ANSWERS else None
    return AnswerNorms(
        task, keys, longest, any(_REFUSAL.match(answer.lstrip()) for answer in answers)
    )


def _empty(reply: AnswererReply, standard: AnswerNorms) -> str:
    if reply.text.strip():
        return ""
    return "the teacher thought and gave no answer" if reply.thought else "the answer is empty"


def _cut_short(reply: AnswererReply, standard: AnswerNorms) -> str:
    return "the answer was cut short" if reply.finish_reason == "length" else ""


def _refusal(reply: AnswererReply, standard: AnswerNorms) -> str:
    refused = not standard.refuses and _REFUSAL.match(reply.text.lstrip())
    return "the teacher refused" if refused else ""


def _no_label(reply: AnswererReply, standard: AnswerNorms) -> str:
    if standard.task.kind != "classification" or reply.text in standard.task.labels:
        return ""
    return f"`{reply.text[:60]}` is no label"


def _no_object(reply: AnswererReply, standard: AnswerNorms) -> str:
    if standard.task.kind != "extraction":
        return ""
    found = _parse_object(reply.text)
    if found is None:
        return "the answer is no JSON object"
    missing = sorted(standard.keys - set(found))
    return f"the object lacks {', '.join(missing)}" if missing else ""


def _too_long(reply: AnswererReply, standard: AnswerNorms) -> str:
    if standard.longest is None or len(reply.text) <= _TOO_LONG * standard.longest:
        return ""
    return f"the answer is over {_TOO_LONG} times as long as any that people gave"


#: What is asked of every single answer, in this order.
CHECKS: dict[str, Callable[[AnswererReply, AnswerNorms], str]] = {
    "empty": _empty,
    "cut_short": _cut_short,
    "refusal": _refusal,
    "label": _no_label,
    "json": _no_object,
    "length": _too_long,
}


def why_unlearnable(answer: str, task: Task) -> str:
    """Why an answer can't be learnt, whoever gives it; empty if it can."""
    standard = AnswerNorms(task, frozenset(), None, refuses=True)
    checks = (_empty, _no_label, _no_object)
    return next((why for check in checks if (why := check(AnswererReply(answer), standard))), "")


def check_examples(
    lessons: Sequence[TeacherExample],
    standard: AnswerNorms,
    test: Sequence[Row],
    near: tuple[float, float],
    decide: Callable[[TeacherExample], TeacherExample] = lambda lesson: lesson,
) -> list[TeacherExample]:
    """The lessons, each with the reason for which it is dropped, if there is one.

    `near` are the Jaccard similarities from which a row repeats an earlier one, and from which its
    question is one of the test's. `decide` hears what the checks of a single answer say, and may
    overrule it; not what comes after: a row that stands in the test is dropped in any case.
    """
    found = [_strip_wrapping(lesson, standard) for lesson in lessons]
    found = [decide(_apply_checks(lesson, standard)) for lesson in found]
    found = _drop(found, _find_leaks(found, test, near[1]), "the question stands in the test rows")
    return _drop(found, _find_repeats(found, standard, near[0]), "another row says nearly the same")


def _strip_wrapping(lesson: TeacherExample, standard: AnswerNorms) -> TeacherExample:
    """Where answers are labels or objects, space and a code fence round them don't count."""
    if lesson.dropped or standard.task.kind not in _EXACT:
        return lesson
    replies = _strip_replies(lesson.replies)
    opinions = tuple(
        replace(opinion, replies=_strip_replies(opinion.replies)) for opinion in lesson.opinions
    )
    found = replace(lesson, replies=replies, opinions=opinions)
    return found.with_answer(replies[-1].text, lesson.reasoning)


def _strip_replies(replies: Sequence[AnswererReply]) -> tuple[AnswererReply, ...]:
    return tuple(replace(reply, text=_strip_fence(reply.text)) for reply in replies)


def _apply_checks(lesson: TeacherExample, standard: AnswerNorms) -> TeacherExample:
    if lesson.dropped:
        return lesson
    reasons = (check(reply, standard) for reply in lesson.replies for check in CHECKS.values())
    found = next((reason for reason in reasons if reason), "")
    return replace(lesson, dropped=found, disputed=bool(found))


def _find_leaks(lessons: Sequence[TeacherExample], test: Sequence[Row], near: float) -> set[str]:
    rows = [lesson.row for lesson in lessons if not lesson.dropped]
    exact, close = find_leaks(rows, test, near)
    return {row.id for row in (*exact, *close)}


def _find_repeats(
    lessons: Sequence[TeacherExample], standard: AnswerNorms, near: float
) -> set[str]:
    """Rows whose question and answer an earlier row has already; another label is another row."""
    rows = [lesson.row for lesson in lessons if not lesson.dropped]
    pairs = find_near_pairs([f"{question_text(row)}\n{row.answer}" for row in rows], near)
    exact = standard.task.kind in _EXACT
    return {
        rows[other].id
        for one, other in pairs
        if not exact or rows[one].answer == rows[other].answer
    }


def _drop(lessons: Sequence[TeacherExample], ids: set[str], reason: str) -> list[TeacherExample]:
    return [
        replace(lesson, dropped=reason) if not lesson.dropped and lesson.row.id in ids else lesson
        for lesson in lessons
    ]


def _strip_fence(text: str) -> str:
    return unfenced(text).strip()


def _parse_object(text: str) -> dict[str, object] | None:
    try:
        value = parse_json(text)
    except BadJson:
        return None
    return value if isinstance(value, dict) else None
