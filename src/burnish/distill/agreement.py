"""Several teachers: a row is learnt where they agree.

Two that were trained apart seldom make the same mistake, so a row on which they agree is more
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

#: Tasks whose answers are either the same or not.
_SAME = ("classification", "extraction")
_FREE_TEXT = 0.5


def add_opinions(
    lessons: Sequence[TeacherExample], collector: AnswerCollector, asking: QuestionFormat
) -> list[TeacherExample]:
    """The lessons with what one more teacher answers; questions that got no answer aren't asked.

    Raises TeacherStopped as the collector does.
    """
    places = [place for place, lesson in enumerate(lessons) if not lesson.dropped]
    found = collector.collect([lessons[place].original for place in places], asking)
    heard = list(lessons)
    for place, other in zip(places, found, strict=True):
        opinion = SecondOpinion(collector.teacher.name, other.keys, other.replies)
        heard[place] = replace(lessons[place], opinions=(*lessons[place].opinions, opinion))
    return heard


def agreement_filter(recipe: Recipe, task: Task) -> Callable[[TeacherExample], TeacherExample]:
    """What drops a lesson on which the teachers don't agree, as the recipe measures it."""
    score = METRICS[deciding_metric(task, recipe.evaluate)]
    least = recipe.distill.agreement or (1.0 if task.kind in _SAME else _FREE_TEXT)

    def judged(lesson: TeacherExample) -> TeacherExample:
        for opinion in () if lesson.dropped else lesson.opinions:
            if any(reply.error for reply in opinion.replies):
                why = f"{opinion.teacher} failed"
            elif any(
                score(one.text, other.text) < least
                for one, other in zip(lesson.replies, opinion.replies, strict=True)
            ):
                why = "the teachers disagree"
            else:
                continue
            return replace(lesson, dropped=why, disputed=True)
        return lesson

    return judged
