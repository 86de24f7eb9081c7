"""Pairs of a better and a worse answer, as rows that preference objectives learn from.

Either the teacher's answer stands against the student's own one from before it learns, so that the
student unlearns what it would say; or two samples of the teacher stand against each other, and a
grader tells which is better. A pair whose answers are worth the same teaches nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from burnish.core.errors import BadRecipe
from burnish.core.recipe.distill import TeacherEndpoint as Settings
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.rewards import MetricReward
from burnish.core.records import Message, Prompt, Row
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.distill.artifacts import write_lines
from burnish.distill.evaluation import EvaluationSet
from burnish.distill.filters import why_unlearnable
from burnish.distill.teacher_answers import AnswerCollector, QuestionFormat, TeacherExample
from burnish.engines.answerers.local import LocalAnswerer
from burnish.evaluate.rewards import reward_function
from burnish.evaluate.tasks import with_instruction

PAIRS = "pairs.jsonl"
#: Objectives that learn from pairs.
PREFERENCE_OBJECTIVES = ("dpo", "orpo", "simpo", "kto")


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A row with a better and a worse answer.

    `key` is the hash of the question that the second answer came from, `scores` what the grader
    says of the better and the worse one (None where it wasn't asked), `dropped` why there is
    nothing to learn.
    """

    example: TeacherExample
    row: Row
    key: str
    scores: tuple[float, float] | None
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class SecondAnswerer:
    """Who gives the second answers, and how it is asked."""

    collector: AnswerCollector
    question_format: QuestionFormat


def refuse_unpaired(recipe: Recipe) -> None:
    """Raise BadRecipe for an objective that learns from pairs where none are to be made."""
    kind = recipe.train.objective.kind
    if kind in PREFERENCE_OBJECTIVES and recipe.distill.pairs == "none":
        raise BadRecipe(
            f"train.objective={kind} learns from two answers to a question, and a teacher gives "
            "one.",
            "Set distill.pairs=student, or =teacher.",
        )


def refuse_ungraded(recipe: Recipe, dataset: Dataset) -> None:
    """Raise BadRecipe where two samples of the teacher couldn't be told apart."""
    settings = recipe.distill
    if settings.pairs != "teacher":
        return
    if not settings.teacher.temperature:
        raise BadRecipe(
            "Two samples of a teacher at temperature 0 are the same.",
            "Set distill.teacher.temperature, to 0.8 for instance.",
        )
    rows = (*dataset.split.train, *dataset.split.validation)
    made = settings.self_instruct or settings.evol_instruct or settings.questions_per_passage
    bare = made or any(not row.answer for row in rows)
    if bare and isinstance(settings.grader, MetricReward):
        raise BadRecipe(
            "Some rows have no answer of their own, so a metric can't tell which of two samples is "
            "better.",
            "Set distill.grader to a function of your own (kind: file), or distill.pairs=student.",
        )


def second_answerer(
    collector: AnswerCollector, student: str, asking: QuestionFormat
) -> SecondAnswerer:
    """Who is asked for second answers: the student, by its greedy answer and told nothing; or the
    teacher, with another seed."""
    recipe = collector.recipe
    if recipe.distill.pairs == "teacher":
        data = recipe.data.model_copy(update={"seed": recipe.data.seed + 1})
        other = recipe.model_copy(update={"data": data})
        return SecondAnswerer(AnswerCollector(collector.teacher, collector.run, other), asking)
    settings = recipe.distill.model_copy(update={"teacher": Settings(model=student)})
    own = recipe.model_copy(update={"distill": settings})
    model = LocalAnswerer(student, recipe.evaluate.batch_size)
    return SecondAnswerer(
        AnswerCollector(model, collector.run, own), replace(asking, instruction="")
    )


def make_pairs(
    lessons: Mapping[str, Sequence[TeacherExample]], second: SecondAnswerer, exam: EvaluationSet
) -> dict[str, list[AnswerPair]]:
    """The lessons that are learnt from, each with a second answer. Raises TeacherStopped."""
    kept = {part: [one for one in some if not one.dropped] for part, some in lessons.items()}
    asked = [_prompt(lesson, second.question_format) for some in kept.values() for lesson in some]
    said = iter(second.collector.ask(asked))
    worth = reward_function(exam.recipe.distill.grader, exam.dataset.task)
    by_metric = isinstance(exam.recipe.distill.grader, MetricReward)
    found: dict[str, list[AnswerPair]] = {}
    for part, some in kept.items():
        found[part] = []
        for lesson in some:
            key, reply = next(said)
            if reply.error:
                found[part].append(AnswerPair(lesson, lesson.row, key, None, reply.error))
                continue
            scores = None
            if lesson.original.answer or not by_metric:
                both = (lesson.row.answer, reply.text)
                scores = (worth(lesson.original, both[0]), worth(lesson.original, both[1]))
            found[part].append(
                _order_pair(AnswerPair(lesson, lesson.row, key, scores), reply.text, exam)
            )
    return found


def _order_pair(pair: AnswerPair, other: str, exam: EvaluationSet) -> AnswerPair:
    """The pair with the better answer first, or why it is none."""
    better, worse, scores = pair.example.row.answer, other, pair.scores
    if scores and scores[1] > scores[0] and exam.recipe.distill.pairs == "teacher":
        better, worse, scores = worse, better, (scores[1], scores[0])
    dropped = why_unlearnable(better, exam.dataset.task)
    if better.strip() == worse.strip():
        dropped = "both answers are the same"
    elif scores and scores[0] <= scores[1]:
        dropped = "the answer is no better than the other one"
    row = replace(pair.example.with_answer(better).row, rejected=Message("assistant", worse))
    return replace(pair, row=replace(row, label=None), scores=scores, dropped=dropped)


def save_pairs(run: Run, recipe: Recipe, found: Mapping[str, Sequence[AnswerPair]]) -> None:
    """`pairs.jsonl`: what `train.objective: dpo` reads, each with where it came from."""
    entries = [
        {
            "prompt": [turn.as_wire() for turn in pair.row.prompt],
            "chosen": pair.row.answer,
            "rejected": pair.row.rejected.content,
            "row": pair.example.original.id,
            "split": part,
            "against": recipe.distill.pairs,
            "scores": pair.scores,
            "requests": [*pair.example.keys, pair.key],
        }
        for part, some in found.items()
        for pair in some
        if not pair.dropped and pair.row.rejected
    ]
    write_lines(run, PAIRS, entries)


def _prompt(lesson: TeacherExample, asking: QuestionFormat) -> Prompt:
    """The last question of a row, behind the teacher's earlier answers."""
    turns = tuple(Message(turn.role, turn.content) for turn in lesson.row.messages[:-1])
    prompt = Prompt(turns, max_new_tokens=asking.max_new_tokens, choices=asking.choices)
    return with_instruction(prompt, asking.instruction)
