"""Rows that a person decides on: those that a check of the answer dropped, or on which the teachers
disagree.

`reviews.jsonl` of a run has a line for every decision, on the disk before the next row is shown. It
is kept under a hash of the question and of all that was answered, so the next `burnish distill` in
this workspace finds it; and other answers are another row to decide on.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from burnish.core.atomic import hash_json
from burnish.core.errors import BadData, NotFound
from burnish.core.journal import Journal, read_journal
from burnish.core.runs import Run, runs_folder
from burnish.distill.filters import why_unlearnable
from burnish.distill.teacher_answers import TeacherExample

REVIEWS = "reviews.jsonl"
#: What may be decided. A row that is skipped stays dropped and is shown again another time.
DECISIONS = ("keep", "drop", "edit", "skip")


@dataclass(frozen=True, slots=True)
class DisputedRow:
    """A row as a person is shown it.

    `question` are the turns before the last answer; `answers` (teacher, what it said), the one that
    would be learnt first; `reason` is why it is dropped.
    """

    key: str
    row: str
    reason: str
    question: tuple[tuple[str, str], ...]
    answers: tuple[tuple[str, str], ...]
    own_answer: str = ""


def review_key(lesson: TeacherExample) -> str:
    """The hash of all that a person sees of a row."""
    question = [[turn.role, turn.content] for turn in lesson.row.messages[:-1]]
    said = [
        [reply.text for reply in some]
        for some in (lesson.replies, *(opinion.replies for opinion in lesson.opinions))
    ]
    return hash_json([question, said])


def list_disputed(run: Run, sample: int | None = None, seed: int = 0) -> list[DisputedRow]:
    """The rows of a distillation that wait for a person: in the run's order, those that were
    skipped last. `sample` of them are drawn by `seed` if there are more, decided ones included, so
    that a review that goes on has the same ones. Raises NotFound if the run is no distillation.
    """
    file = run.path / "dropped.jsonl"
    if not file.exists():
        raise NotFound(
            f"{run.id} holds no answers of a teacher.", "Name a run of `burnish distill`."
        )
    rows = {
        row.key: row for line in read_journal(file) if "key" in line for row in (_parse_line(line),)
    }
    drawn = set(rows)
    if sample is not None and sample < len(rows):
        drawn = set(random.Random(seed).sample(sorted(rows), sample))
    known = load_decisions(run)
    waiting = [row for row in rows.values() if row.key in drawn and row.key not in known]
    skipped = [key for key, entry in known.items() if entry["decision"] == "skip"]
    return waiting + [rows[key] for key in skipped if key in drawn]


def decide(run: Run, row: DisputedRow, decision: str, answer: str = "") -> None:
    """Write a decision down; `keep` and `edit` name the answer that is to be learnt.

    Raises BadData for an answer that the task doesn't know.
    """
    if decision not in DECISIONS:
        raise BadData(f"`{decision}` is no decision.", f"Known ones: {', '.join(DECISIONS)}.")
    entry = {"key": row.key, "row": row.row, "decision": decision}
    if decision in ("keep", "edit"):
        if why := why_unlearnable(answer, run.recipe.task):
            raise BadData(f"That can't be learnt: {why}.", "Edit the answer, or drop the row.")
        entry["answer"] = answer
    Journal(run.path / REVIEWS).write(**entry)


def load_decisions(run: Run) -> dict[str, dict[str, Any]]:
    """The last decision on every row, of this run and of the others in this workspace."""
    own = run.path / REVIEWS
    files = [file for file in sorted(runs_folder().glob(f"*/{REVIEWS}")) if file != own]
    lines = [line for file in (*files, own) for line in read_journal(file)]
    found: dict[str, dict[str, Any]] = {}
    for line in sorted(lines, key=lambda line: float(line["at"])):
        found.pop(line["key"], None)
        found[line["key"]] = line
    return found


def decision_filter(
    known: Mapping[str, Mapping[str, Any]],
) -> Callable[[TeacherExample], TeacherExample]:
    """What lets a person's decisions overrule the checks."""

    def judged(lesson: TeacherExample) -> TeacherExample:
        entry = known.get(review_key(lesson)) if lesson.disputed else None
        if entry is None or entry["decision"] == "skip":
            return lesson
        review = {name: entry[name] for name in ("decision", "answer", "at") if name in entry}
        review["overruled"] = lesson.dropped
        if entry["decision"] == "drop":
            settled = "a person dropped it"
            return replace(lesson, dropped=settled, disputed=False, review=review)
        found = replace(lesson, dropped="", disputed=False, review=review)
        answer = str(entry["answer"])
        return found.with_answer(answer, lesson.reasoning if answer == lesson.row.answer else "")

    return judged


def _parse_line(line: Mapping[str, Any]) -> DisputedRow:
    """One line of `dropped.jsonl`."""
    said = [(line["teacher"]["name"], line["answers"])]
    said += [(one["teacher"], one["answers"]) for one in line.get("opinions", ())]
    return DisputedRow(
        line["key"],
        line["row"],
        line["reason"],
        tuple((turn["role"], turn["content"]) for turn in line["question"]),
        tuple((teacher, answers[-1]) for teacher, answers in said if answers),
        line["own_answer"],
    )
