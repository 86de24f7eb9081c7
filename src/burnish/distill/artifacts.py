"""The files with a run's examples: the rows that are trained on, and the dropped ones with the
reason."""

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
    run: Run, teacher: Answerer, recipe: Recipe, examples: Mapping[str, Sequence[TeacherExample]]
) -> None:
    """Write `teacher.jsonl`, the training rows as chat rows with their origin, and `dropped.jsonl`,
    the others with the reason. Both atomically."""
    kept, dropped = [], []
    settings = recipe.distill.teacher
    source = {
        "name": teacher.name,
        **teacher.identity,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "terms": settings.terms,
    }
    for part, part_examples in examples.items():
        for example in part_examples:
            facts = {**_origin(example, part), "teacher": source}
            if example.dropped:
                dropped.append({"reason": example.dropped, **_dropped_facts(example), **facts})
            else:
                turns = [turn.as_wire() for turn in example.row.messages]
                kept.append({"messages": turns, **facts})
    for name, entries in ((KEPT, kept), (DROPPED, dropped)):
        write_lines(run, name, entries)


def write_lines(run: Run, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, the file atomically."""
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    write_atomic(run.path / name, text)


def _origin(example: TeacherExample, part: str) -> dict[str, Any]:
    """Return where a row comes from."""
    facts: dict[str, Any] = {
        "row": example.original.id,
        "split": part,
        "own_answer": example.original.answer,
        "requests": example.keys,
    }
    if example.opinions:
        facts["opinions"] = [
            {
                "teacher": opinion.teacher,
                "answers": [reply.text for reply in opinion.replies],
                "requests": opinion.keys,
            }
            for opinion in example.opinions
        ]
    if example.source:
        facts["source"] = example.source
    if example.review:
        facts["review"] = dict(example.review)
    return facts


def _dropped_facts(example: TeacherExample) -> dict[str, Any]:
    """Return the answers to a dropped row; with the question if a person may overrule the drop."""
    answers = [reply.text for reply in example.replies]
    if not example.disputed:
        return {"answers": answers}
    turns = [turn.as_wire() for turn in example.row.messages[:-1]]
    return {"answers": answers, "question": turns, "key": review_key(example)}
