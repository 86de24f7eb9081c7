"""Pairs of a better and a worse answer, as rows that preference objectives learn from.

Either the teacher's answer stands against the student's own one from before it learns, so that the
student unlearns what it would say; or two samples of the teacher stand against each other, and a
grader tells which is better. A pair whose answers are worth the same teaches nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from burnish.core.errors import BadRecipe
from burnish.core.recipe.distill import Teacher as Settings
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.rewards import MetricReward
from burnish.core.records import Message, Prompt, Row
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.distill.artifacts import write_lines
from burnish.distill.evaluation import Exam
from burnish.distill.filters import unlearnable
from burnish.distill.teacher_answers import Asking, Collector, Lesson
from burnish.engines.answerers.local import LocalTeacher
from burnish.evaluate.rewards import worth_of
from burnish.evaluate.tasks import with_instruction

PAIRS = "pairs.jsonl"
#: Objectives that learn from pairs.
PAIRED = ("dpo", "orpo", "simpo", "kto")


@dataclass(frozen=True, slots=True)
class Paired:
    """A row with a better and a worse answer.

    `key` is the hash of the question that the second answer came from, `scores` what the grader
    says of the better and the worse one (None where it wasn't asked), `dropped` why there is
    nothing to learn.
    """

    lesson: Lesson
    row: Row
    key: str
    scores: tuple[float, float] | None
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class Second:
    """Who gives the second answers, and how it is asked."""

    collector: Collector
    asking: Asking


def refuse_unpaired(recipe: Recipe) -> None:
    """Raise BadRecipe for an objective that learns from pairs where none are to be made."""
    kind = recipe.train.objective.kind
    if kind in PAIRED and recipe.distil.pairs == "none":
        raise BadRecipe(
            f"train.objective={kind} learns from two answers to a question, and a teacher gives "
            "one.",
            "Set distil.pairs=student, or =teacher.",
        )


def refuse_ungraded(recipe: Recipe, dataset: Dataset) -> None:
    """Raise BadRecipe where two samples of the teacher couldn't be told apart."""
    settings = recipe.distil
    if settings.pairs != "teacher":
        return
    if not settings.teacher.temperature:
        raise BadRecipe(
            "Two samples of a teacher at temperature 0 are the same.",
            "Set distil.teacher.temperature, to 0.8 for instance.",
        )
    rows = (*dataset.split.train, *dataset.split.validation)
    made = settings.grow or settings.evolve or settings.questions_per_passage
    bare = made or any(not row.answer for row in rows)
    if bare and isinstance(settings.grader, MetricReward):
        raise BadRecipe(
            "Some rows have no answer of their own, so a metric can't tell which of two samples is "
            "better.",
            "Set distil.grader to a function of your own (kind: file), or distil.pairs=student.",
        )


def second_of(collector: Collector, student: str, asking: Asking) -> Second:
    """Who is asked for second answers: the student, by its greedy answer and told nothing; or the
    teacher, with another seed."""
    recipe = collector.recipe
    if recipe.distil.pairs == "teacher":
        data = recipe.data.model_copy(update={"seed": recipe.data.seed + 1})
        other = recipe.model_copy(update={"data": data})
        return Second(Collector(collector.teacher, collector.run, other), asking)
    distil = recipe.distil.model_copy(update={"teacher": Settings(model=student)})
    own = recipe.model_copy(update={"distil": distil})
    model = LocalTeacher(student, recipe.evaluate.batch_size)
    return Second(Collector(model, collector.run, own), replace(asking, told=""))


def paired(
    lessons: Mapping[str, Sequence[Lesson]], second: Second, exam: Exam
) -> dict[str, list[Paired]]:
    """The lessons that are learnt from, each with a second answer. Raises TeacherStopped."""
    kept = {part: [one for one in some if not one.dropped] for part, some in lessons.items()}
    asked = [_prompt(lesson, second.asking) for some in kept.values() for lesson in some]
    said = iter(second.collector.replies(asked))
    worth = worth_of(exam.recipe.distil.grader, exam.dataset.task)
    by_metric = isinstance(exam.recipe.distil.grader, MetricReward)
    found: dict[str, list[Paired]] = {}
    for part, some in kept.items():
        found[part] = []
        for lesson in some:
            key, reply = next(said)
            if reply.error:
                found[part].append(Paired(lesson, lesson.row, key, None, reply.error))
                continue
            scores = None
            if lesson.own.answer or not by_metric:
                both = (lesson.row.answer, reply.text)
                scores = (worth(lesson.own, both[0]), worth(lesson.own, both[1]))
            found[part].append(_ordered(Paired(lesson, lesson.row, key, scores), reply.text, exam))
    return found


def _ordered(pair: Paired, other: str, exam: Exam) -> Paired:
    """The pair with the better answer first, or why it is none."""
    better, worse, scores = pair.lesson.row.answer, other, pair.scores
    if scores and scores[1] > scores[0] and exam.recipe.distil.pairs == "teacher":
        better, worse, scores = worse, better, (scores[1], scores[0])
    dropped = unlearnable(better, exam.dataset.task)
    if better.strip() == worse.strip():
        dropped = "both answers are the same"
    elif scores and scores[0] <= scores[1]:
        dropped = "the answer is no better than the other one"
    row = replace(pair.lesson.answering(better).row, rejected=Message("assistant", worse))
    return replace(pair, row=replace(row, label=None), scores=scores, dropped=dropped)


def save_pairs(run: Run, recipe: Recipe, found: Mapping[str, Sequence[Paired]]) -> None:
    """`pairs.jsonl`: what `train.objective: dpo` reads, each with where it came from."""
    entries = [
        {
            "prompt": [turn.as_wire() for turn in pair.row.prompt],
            "chosen": pair.row.answer,
            "rejected": pair.row.rejected.content,
            "row": pair.lesson.own.id,
            "split": part,
            "against": recipe.distil.pairs,
            "scores": pair.scores,
            "requests": [*pair.lesson.keys, pair.key],
        }
        for part, some in found.items()
        for pair in some
        if not pair.dropped and pair.row.rejected
    ]
    write_lines(run, PAIRS, entries)


def _prompt(lesson: Lesson, asking: Asking) -> Prompt:
    """The last question of a row, behind the teacher's earlier answers."""
    turns = tuple(Message(turn.role, turn.content) for turn in lesson.row.messages[:-1])
    prompt = Prompt(turns, max_new_tokens=asking.max_new_tokens, choices=asking.choices)
    return with_instruction(prompt, asking.told)
