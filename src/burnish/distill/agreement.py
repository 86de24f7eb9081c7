"""Several teachers: a row is trained on if they agree.

Independently trained teachers seldom make the same mistake, so a row on which they agree is more
often right, and one on which they don't is worth a person's look.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import Recipe
from burnish.distill.teacher_answers import (
    AnswerCollector,
    QuestionFormat,
    SecondOpinion,
    TeacherExample,
)
from burnish.evaluate.metrics import METRICS
from burnish.evaluate.tasks import deciding_metric

#: Tasks whose answers are compared exactly.
_SAME = ("classification", "extraction")
_FREE_TEXT = 0.5


def add_opinions(
    examples: Sequence[TeacherExample], collector: AnswerCollector, question_format: QuestionFormat
) -> list[TeacherExample]:
    """Return the examples with one more teacher's answers; dropped examples aren't asked.

    Raises TeacherStopped as the collector does.
    """
    indices = [index for index, example in enumerate(examples) if not example.dropped]
    answered = collector.collect([examples[index].original for index in indices], question_format)
    result = list(examples)
    for index, other in zip(indices, answered, strict=True):
        opinion = SecondOpinion(collector.teacher.name, other.keys, other.replies)
        result[index] = replace(examples[index], opinions=(*examples[index].opinions, opinion))
    return result


def agreement_filter(recipe: Recipe, task: Task) -> Callable[[TeacherExample], TeacherExample]:
    """Return a function that drops an example on which the teachers disagree, by the recipe's
    measure."""
    score = METRICS[deciding_metric(task, recipe.evaluate)]
    threshold = recipe.distill.agreement or (1.0 if task.kind in _SAME else _FREE_TEXT)

    def apply(example: TeacherExample) -> TeacherExample:
        for opinion in () if example.dropped else example.opinions:
            if any(reply.error for reply in opinion.replies):
                reason = f"{opinion.teacher} failed"
            elif any(
                score(reply.text, opinion_reply.text) < threshold
                for reply, opinion_reply in zip(example.replies, opinion.replies, strict=True)
            ):
                reason = "the teachers disagree"
            else:
                continue
            return replace(example, dropped=reason, disputed=True)
        return example

    return apply
