"""Rows for a person to decide: dropped by a check of the answer, or disputed by the teachers.

`reviews.jsonl` of a run has a line for every decision, on disk before the next row is shown. The
key is a hash of the question and all answers, so the next `burnish distill` in this workspace finds
it; other answers make it another row.
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
#: The possible decisions. A skipped row stays dropped and is shown again another time.
DECISIONS = ("keep", "drop", "edit", "skip")


@dataclass(frozen=True, slots=True)
class DisputedRow:
    """A row as shown to a person.

    `question` are the turns before the last answer; `answers` are (teacher, answer), the one to
    train on first; `reason` is why it was dropped.
    """

    key: str
    row: str
    reason: str
    question: tuple[tuple[str, str], ...]
    answers: tuple[tuple[str, str], ...]
    own_answer: str = ""


def review_key(example: TeacherExample) -> str:
    """Return the hash of everything that a person sees of a row."""
    question = [[turn.role, turn.content] for turn in example.row.messages[:-1]]
    answers = [
        [reply.text for reply in replies]
        for replies in (example.replies, *(opinion.replies for opinion in example.opinions))
    ]
    return hash_json([question, answers])


def list_disputed(run: Run, sample: int | None = None, seed: int = 0) -> list[DisputedRow]:
    """Return the rows of a distillation that await a decision, in the run's order, skipped ones
    last.

    If there are more than `sample`, that many are drawn by `seed`, including decided ones, so that
    a resumed review has the same rows. Raises NotFound if the run isn't a distillation.
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
    decisions = load_decisions(run)
    waiting = [row for row in rows.values() if row.key in drawn and row.key not in decisions]
    skipped = [key for key, entry in decisions.items() if entry["decision"] == "skip"]
    return waiting + [rows[key] for key in skipped if key in drawn]


def decide(run: Run, row: DisputedRow, decision: str, answer: str = "") -> None:
    """Record a decision; `keep` and `edit` come with the answer to train on.

    Raises BadData for an answer that the task doesn't allow.
    """
    if decision not in DECISIONS:
        raise BadData(f"`{decision}` is not a decision.", f"Decisions: {', '.join(DECISIONS)}.")
    entry = {"key": row.key, "row": row.row, "decision": decision}
    if decision in ("keep", "edit"):
        if reason := why_unlearnable(answer, run.recipe.task):
            raise BadData(
                f"The answer can't be trained on: {reason}.", "Edit the answer, or drop the row."
            )
        entry["answer"] = answer
    Journal(run.path / REVIEWS).write(**entry)


def load_decisions(run: Run) -> dict[str, dict[str, Any]]:
    """Return the latest decision on every row, from this run and others in this workspace."""
    run_file = run.path / REVIEWS
    files = [file for file in sorted(runs_folder().glob(f"*/{REVIEWS}")) if file != run_file]
    lines = [line for file in (*files, run_file) for line in read_journal(file)]
    decisions: dict[str, dict[str, Any]] = {}
    for line in sorted(lines, key=lambda line: float(line["at"])):
        decisions.pop(line["key"], None)
        decisions[line["key"]] = line
    return decisions


def decision_filter(
    decisions: Mapping[str, Mapping[str, Any]],
) -> Callable[[TeacherExample], TeacherExample]:
    """Return a function that lets a person's decisions overrule the checks."""

    def apply(example: TeacherExample) -> TeacherExample:
        entry = decisions.get(review_key(example)) if example.disputed else None
        if entry is None or entry["decision"] == "skip":
            return example
        review = {name: entry[name] for name in ("decision", "answer", "at") if name in entry}
        review["overruled"] = example.dropped
        if entry["decision"] == "drop":
            reason = "a person dropped it"
            return replace(example, dropped=reason, disputed=False, review=review)
        kept = replace(example, dropped="", disputed=False, review=review)
        answer = str(entry["answer"])
        return kept.with_answer(answer, example.reasoning if answer == example.row.answer else "")

    return apply


def _parse_line(line: Mapping[str, Any]) -> DisputedRow:
    """Parse one line of `dropped.jsonl`."""
    answers_by_teacher = [(line["teacher"]["name"], line["answers"])]
    answers_by_teacher += [
        (opinion["teacher"], opinion["answers"]) for opinion in line.get("opinions", ())
    ]
    return DisputedRow(
        line["key"],
        line["row"],
        line["reason"],
        tuple((turn["role"], turn["content"]) for turn in line["question"]),
        tuple((teacher, answers[-1]) for teacher, answers in answers_by_teacher if answers),
        line["own_answer"],
    )
