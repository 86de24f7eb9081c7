"""Pairs of a better and a worse answer, as rows for preference objectives.

Either the teacher's answer is paired with the untrained student's own, so that the student unlearns
it; or two samples of the teacher are paired, and a grader decides which is better. A pair of
equally good answers is dropped.
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
#: Objectives that train on pairs.
PREFERENCE_OBJECTIVES = ("dpo", "orpo", "simpo", "kto")


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A row with a better and a worse answer.

    `key` is the hash of the second answer's question, `scores` the grades of the better and the
    worse answer (None if it wasn't graded), `dropped` why the pair isn't used.
    """

    example: TeacherExample
    row: Row
    key: str
    scores: tuple[float, float] | None
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class SecondAnswerer:
    """The source of the second answers, and how it is asked."""

    collector: AnswerCollector
    question_format: QuestionFormat


def refuse_unpaired(recipe: Recipe) -> None:
    """Raise BadRecipe for an objective that needs pairs if none are to be made."""
    kind = recipe.train.objective.kind
    if kind in PREFERENCE_OBJECTIVES and recipe.distill.pairs == "none":
        raise BadRecipe(
            f"train.objective={kind} needs two answers to each question; a teacher gives one.",
            "Set distill.pairs=student, or =teacher.",
        )


def refuse_ungraded(recipe: Recipe, dataset: Dataset) -> None:
    """Raise BadRecipe if two samples of the teacher couldn't be told apart."""
    settings = recipe.distill
    if settings.pairs != "teacher":
        return
    if not settings.teacher.temperature:
        raise BadRecipe(
            "Two samples of a teacher at temperature 0 are the same.",
            "Set distill.teacher.temperature, to 0.8 for instance.",
        )
    rows = (*dataset.split.train, *dataset.split.validation)
    generates = settings.self_instruct or settings.evol_instruct or settings.questions_per_passage
    has_unanswered = generates or any(not row.answer for row in rows)
    if has_unanswered and isinstance(settings.grader, MetricReward):
        raise BadRecipe(
            "Some rows have no reference answer, so a metric can't tell which of two samples is "
            "better.",
            "Set distill.grader to a function of your own (kind: file), or distill.pairs=student.",
        )


def second_answerer(
    collector: AnswerCollector, student: str, question_format: QuestionFormat
) -> SecondAnswerer:
    """Return the source of second answers: the student's greedy answer without an instruction; or
    the teacher, with another seed."""
    recipe = collector.recipe
    if recipe.distill.pairs == "teacher":
        data = recipe.data.model_copy(update={"seed": recipe.data.seed + 1})
        reseeded = recipe.model_copy(update={"data": data})
        return SecondAnswerer(
            AnswerCollector(collector.teacher, collector.run, reseeded), question_format
        )
    settings = recipe.distill.model_copy(update={"teacher": Settings(model=student)})
    student_as_teacher = recipe.model_copy(update={"distill": settings})
    model = LocalAnswerer(student, recipe.evaluate.batch_size)
    return SecondAnswerer(
        AnswerCollector(model, collector.run, student_as_teacher),
        replace(question_format, instruction=""),
    )


def make_pairs(
    examples: Mapping[str, Sequence[TeacherExample]],
    second: SecondAnswerer,
    evaluation_set: EvaluationSet,
) -> dict[str, list[AnswerPair]]:
    """Return the examples in use, each paired with a second answer. Raises TeacherStopped."""
    kept = {
        part: [example for example in part_examples if not example.dropped]
        for part, part_examples in examples.items()
    }
    prompts = [
        _prompt(example, second.question_format)
        for part_examples in kept.values()
        for example in part_examples
    ]
    replies = iter(second.collector.ask(prompts))
    score = reward_function(evaluation_set.recipe.distill.grader, evaluation_set.dataset.task)
    by_metric = isinstance(evaluation_set.recipe.distill.grader, MetricReward)
    pairs: dict[str, list[AnswerPair]] = {}
    for part, part_examples in kept.items():
        pairs[part] = []
        for example in part_examples:
            key, reply = next(replies)
            if reply.error:
                pairs[part].append(AnswerPair(example, example.row, key, None, reply.error))
                continue
            scores = None
            if example.original.answer or not by_metric:
                answers = (example.row.answer, reply.text)
                scores = (score(example.original, answers[0]), score(example.original, answers[1]))
            pairs[part].append(
                _order_pair(
                    AnswerPair(example, example.row, key, scores), reply.text, evaluation_set
                )
            )
    return pairs


def _order_pair(pair: AnswerPair, other: str, evaluation_set: EvaluationSet) -> AnswerPair:
    """Return the pair with the better answer first, or with the reason to drop it."""
    better, worse, scores = pair.example.row.answer, other, pair.scores
    if scores and scores[1] > scores[0] and evaluation_set.recipe.distill.pairs == "teacher":
        better, worse, scores = worse, better, (scores[1], scores[0])
    dropped = why_unlearnable(better, evaluation_set.dataset.task)
    if better.strip() == worse.strip():
        dropped = "both answers are the same"
    elif scores and scores[0] <= scores[1]:
        dropped = "the answer is no better than the other one"
    row = replace(pair.example.with_answer(better).row, rejected=Message("assistant", worse))
    return replace(pair, row=replace(row, label=None), scores=scores, dropped=dropped)


def save_pairs(run: Run, recipe: Recipe, pairs: Mapping[str, Sequence[AnswerPair]]) -> None:
    """Write `pairs.jsonl`: rows for `train.objective: dpo`, each with its origin."""
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
        for part, part_pairs in pairs.items()
        for pair in part_pairs
        if not pair.dropped and pair.row.rejected
    ]
    write_lines(run, PAIRS, entries)


def _prompt(example: TeacherExample, question_format: QuestionFormat) -> Prompt:
    """Return the last question of a row, after the teacher's earlier answers."""
    turns = tuple(Message(turn.role, turn.content) for turn in example.row.messages[:-1])
    prompt = Prompt(
        turns, max_new_tokens=question_format.max_new_tokens, choices=question_format.choices
    )
    return with_instruction(prompt, question_format.instruction)
