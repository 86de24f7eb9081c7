"""What a run keeps of its lessons: the rows that are learnt, and the others with the reason."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.core.atomic import write_atomic
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import Run
from burnish.distill.review import review_key
from burnish.distill.teacher_answers import TeacherExample
from burnish.engines.answerers.protocol import Answerer

KEPT, DROPPED = "teacher.jsonl", "dropped.jsonl"


def save_examples(
    run: Run, teacher: Answerer, recipe: Recipe, lessons: Mapping[str, Sequence[TeacherExample]]
) -> None:
    """`teacher.jsonl`: what is learnt, as chat rows with where each came from; `dropped.jsonl`: the
    others, with the reason. Both whole or not at all."""
    kept, dropped = [], []
    settings = recipe.distill.teacher
    source = {
        "name": teacher.name,
        **teacher.identity,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "terms": settings.terms,
    }
    for part, some in lessons.items():
        for lesson in some:
            facts = {**_origin(lesson, part), "teacher": source}
            if lesson.dropped:
                dropped.append({"reason": lesson.dropped, **_dropped_facts(lesson), **facts})
            else:
                turns = [turn.as_wire() for turn in lesson.row.messages]
                kept.append({"messages": turns, **facts})
    for name, entries in ((KEPT, kept), (DROPPED, dropped)):
        write_lines(run, name, entries)


def write_lines(run: Run, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line, the file whole or not at all."""
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    write_atomic(run.path / name, text)


def _origin(lesson: TeacherExample, part: str) -> dict[str, Any]:
    """Where a row comes from."""
    facts: dict[str, Any] = {
        "row": lesson.original.id,
        "split": part,
        "own_answer": lesson.original.answer,
        "requests": lesson.keys,
    }
    if lesson.opinions:
        facts["opinions"] = [
            {
                "teacher": opinion.teacher,
                "answers": [reply.text for reply in opinion.replies],
                "requests": opinion.keys,
            }
            for opinion in lesson.opinions
        ]
    if lesson.source:
        facts["source"] = lesson.source
    if lesson.review:
        facts["review"] = dict(lesson.review)
    return facts


def _dropped_facts(lesson: TeacherExample) -> dict[str, Any]:
    """What was said to a row that is dropped; with the question where a person may overrule it."""
    answers = [reply.text for reply in lesson.replies]
    if not lesson.disputed:
        return {"answers": answers}
    turns = [turn.as_wire() for turn in lesson.row.messages[:-1]]
    return {"answers": answers, "question": turns, "key": review_key(lesson)}
