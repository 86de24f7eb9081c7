"""`burnish distill`, top to bottom: a teacher answers, a student learns, both are measured."""

import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from burnish.core.atomic import atomic_folder, hash_file, write_json
from burnish.core.errors import BadData, BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.distill import Distill
from burnish.core.recipe.distill import TeacherEndpoint as Settings
from burnish.core.recipe.recipe import Recipe, load_recipe
from burnish.core.records import Row, Split
from burnish.core.runs import Run, find_run, reopen_or_new_run
from burnish.data.load import Dataset, load
from burnish.data.split import draw_split, sample_rows
from burnish.distill.agreement import add_opinions, agreement_filter
from burnish.distill.artifacts import save_examples
from burnish.distill.document_questions import add_reader_opinions, read_passages, write_questions
from burnish.distill.evaluation import (
    BASELINE,
    DISTILLED,
    FINE_TUNED,
    TEACHER,
    EvaluationSet,
    evaluate_baseline,
    evaluate_model,
    evaluate_teacher,
)
from burnish.distill.filters import answer_norms, check_examples
from burnish.distill.preference_pairs import (
    PAIRS,
    PREFERENCE_OBJECTIVES,
    make_pairs,
    refuse_ungraded,
    save_pairs,
    second_answerer,
)
from burnish.distill.report import DistillationResult, distillation_contents, measure_diversity
from burnish.distill.review import decision_filter, load_decisions
from burnish.distill.self_instruct import evol_instruct, self_instruct
from burnish.distill.student import sequence_level, student_recipe
from burnish.distill.teacher_answers import AnswerCollector, TeacherExample
from burnish.engines.answerers.local import LocalAnswerer
from burnish.engines.answerers.protocol import Answerer
from burnish.engines.answerers.registry import open_teacher
from burnish.evaluate.run import resolve_task
from burnish.evaluate.scoring import save_predictions
from burnish.evaluate.tasks import refuse_unanswerable
from burnish.models.find_artifact import find_artifact
from burnish.models.resolved import Resolved
from burnish.rag.indexing import find_documents
from burnish.report.page import write_report
from burnish.train.cached_run import train_cached


def distill(recipe: Recipe, out: Path | None = None) -> DistillationResult:
    """Let the teacher answer the training and validation questions, train the student on what
    passes the checks, and measure baseline, student and teacher on the same frozen test rows.

    Raises BadData or BadRecipe before anything is asked; TeacherStopped when the teacher fails too
    often, is out of reach or the budget is spent. Interrupted, it finds its answers and its
    training again when the same command is repeated.
    """
    _refuse_judge(recipe)
    recipe = _with_teachers_task(_with_teachers_named(recipe))
    dataset = load(recipe, answered=False)
    dataset.announce()
    recipe = recipe.model_copy(update={"task": dataset.task})
    rows = sample_rows(dataset.split.test, recipe.evaluate.max_rows, recipe.evaluate.seed)
    refuse_unanswerable(rows)
    own = [row.answer for row in dataset.split.train]
    if recipe.distill.fine_tuned and not (own and all(own)):
        raise BadRecipe(
            "Some training rows have no answer of their own to learn from.",
            "Set distill.fine_tuned=false.",
        )
    exam = EvaluationSet(recipe, dataset, rows)
    refuse_ungraded(recipe, dataset)
    teacher = open_teacher(recipe)
    others = [(open_teacher(own), own) for own in _further_recipes(recipe)]
    student = student_recipe(recipe)
    inputs = {
        "data": dict(dataset.hashes),
        "base": Resolved.of(student).base.identity,
        "teacher": dict(teacher.identity),
        "documents": _document_hashes(recipe),
        **({"teachers": [dict(other.identity) for other, _ in others]} if others else {}),
    }
    _allow_resume(recipe, out)
    run = reopen_or_new_run("distill", recipe, inputs, out)
    with run.lock():
        collector = AnswerCollector(teacher, run, recipe)
        further = [AnswerCollector(other, run, own) for other, own in others]
        lessons = _collect_examples(exam, collector, further)
        _say_disputed(run, lessons)
        variety = measure_diversity(exam, lessons)
        for warning in variety.warnings():
            say(f"Note: {warning}")
        save_examples(run, teacher, recipe, lessons)
        training = train_cached(student, _student_dataset(exam, collector, student, lessons))
        _keep_artifact(run, training)
        routes = {BASELINE: evaluate_baseline(exam, student)}
        if recipe.distill.fine_tuned:
            say("Training on the rows' own answers")
            plain = train_cached(sequence_level(student), dataset)
            routes[FINE_TUNED] = evaluate_model(exam, FINE_TUNED, str(plain.artifact))
        routes[DISTILLED] = evaluate_model(exam, DISTILLED, str(training.artifact))
        routes[TEACHER] = evaluate_teacher(exam, collector)
        accounts = {one.teacher.name: one.budget.as_dict() for one in further}
        result = DistillationResult(
            run, exam, routes, training, lessons, collector.budget.as_dict(), variety
        )
        return _write_report(replace(result, further_teachers=accounts))


def _refuse_judge(recipe: Recipe) -> None:
    if recipe.evaluate.metric == "graded":
        raise BadRecipe(
            "burnish distill compares words, and evaluate.metric is graded.",
            "Take another metric here, and `graded` in burnish compare or burnish evaluate.",
        )


def _write_report(result: DistillationResult) -> DistillationResult:
    """Write what a run leaves behind."""
    run = result.run
    for name, found in result.routes.items():
        save_predictions(run.path / f"predictions-{name}.jsonl", found.scores.predictions)
    again = shlex.join(["burnish", "distill", str(run.path / "recipe.yaml")])
    write_report(distillation_contents(result, again), run.path / "report.html")
    write_json(run.path / "report.json", result.as_dict())
    run.events.write(event="distilled", decision=result.decision)
    return result


#: What an answer depends on; the other settings of a teacher say how it is asked and paid.
_QUESTION_SETTINGS = ("model", "endpoint", "temperature", "top_p", "max_new_tokens")


def _allow_resume(recipe: Recipe, out: Path | None) -> None:
    """Let the run that was begun at `out` go on at another pace or with another budget."""
    if not out or not (out / "recipe.yaml").exists() or (out / "report.json").exists():
        return
    before, now = load_recipe(out / "recipe.yaml"), recipe.distill
    same = _question_settings(before.distill) == _question_settings(now)
    settings = before.distill.model_copy(update={"teacher": now.teacher, "teachers": now.teachers})
    if same and before.model_copy(update={"distill": settings}) == recipe:
        recipe.save(out / "recipe.yaml")


def _question_settings(settings: Distill) -> list[list[object]]:
    both = (settings.teacher, *settings.teachers)
    return [[getattr(teacher, name) for name in _QUESTION_SETTINGS] for teacher in both]


def _with_teachers_named(recipe: Recipe) -> Recipe:
    """The recipe with the id of the run that is the last one now: soon it is another one."""
    settings = recipe.distill
    named = {
        "teacher": _resolve_last_run(settings.teacher),
        "teachers": tuple(map(_resolve_last_run, settings.teachers)),
    }
    return recipe.model_copy(update={"distill": settings.model_copy(update=named)})


def _resolve_last_run(settings: Settings) -> Settings:
    if settings.endpoint or settings.model != "last":
        return settings
    return settings.model_copy(update={"model": find_run("last").id})


def _further_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe as each further teacher would have it: itself in the place of the first."""
    return [
        recipe.model_copy(
            update={"distill": recipe.distill.model_copy(update={"teacher": settings})}
        )
        for settings in recipe.distill.teachers
    ]


def _with_teachers_task(recipe: Recipe) -> Recipe:
    """What the recipe leaves open about the task, as a local teacher was trained."""
    settings = recipe.distill.teacher
    if settings.endpoint or not settings.model:
        return recipe
    artifact = find_artifact(settings.model)
    return recipe.model_copy(update={"task": resolve_task(recipe.task, artifact)})


def _collect_examples(
    exam: EvaluationSet, collector: AnswerCollector, further: Sequence[AnswerCollector]
) -> dict[str, list[TeacherExample]]:
    """Training and validation rows as the teacher answers and writes them, checked."""
    recipe, split, task = exam.recipe, exam.dataset.split, exam.dataset.task
    asking = exam.question_format(collector)
    both = (*split.train, *split.validation)
    found = collector.collect(both, asking)
    if recipe.distill.self_instruct:
        found += self_instruct(collector, split.train, asking, recipe)
    if recipe.distill.evol_instruct:
        found += evol_instruct(collector, split.train, asking, recipe)
    for other in further:
        _release_teacher(collector.teacher)
        found = add_opinions(found, other, exam.question_format(other))
        _release_teacher(other.teacher)
    if recipe.distill.questions_per_passage:
        found += _write_from_documents(collector, further)
    _release_teacher(collector.teacher)
    near = (recipe.distill.near_duplicate, recipe.data.near_duplicate)
    agreed, decided = agreement_filter(recipe, task), decision_filter(load_decisions(collector.run))
    standard = answer_norms([row for row in both if row.answer], task)
    found = check_examples(
        found, standard, split.test, near, lambda lesson: decided(agreed(lesson))
    )
    lessons = _split(found, split, recipe)
    if not any(not lesson.dropped for lesson in lessons["train"]):
        raise BadData(
            "None of the teacher's answers passed the checks.",
            f"See why: {collector.run.path / 'requests.jsonl'}",
        )
    return lessons


def _write_from_documents(
    collector: AnswerCollector, further: Sequence[AnswerCollector]
) -> list[TeacherExample]:
    """What the teacher writes about the passages, and the others answer."""
    passages = read_passages(collector.recipe)
    found = write_questions(collector, passages, collector.recipe)
    for other in further:
        _release_teacher(collector.teacher)
        found = add_reader_opinions(found, other, passages)
        _release_teacher(other.teacher)
    return found


def _split(
    found: Sequence[TeacherExample], split: Split, recipe: Recipe
) -> dict[str, list[TeacherExample]]:
    """The lessons by the part that their rows are in; new ones are drawn into both."""
    count, cut = len(split.train) + len(split.validation), len(split.train)
    asked, new = found[:count], found[count:]
    later = _draw_validation(
        {lesson.original.id: lesson.row for lesson in new if not lesson.dropped}, recipe
    )
    return {
        "train": [*asked[:cut], *(one for one in new if one.original.id not in later)],
        "validation": [*asked[cut:], *(one for one in new if one.original.id in later)],
    }


def _release_teacher(teacher: Answerer) -> None:
    """Give a local teacher's memory back until it is asked again."""
    if isinstance(teacher, LocalAnswerer):
        teacher.release_memory()


def _say_disputed(run: Run, lessons: Mapping[str, Sequence[TeacherExample]]) -> None:
    """Say what was dropped, and what of it a person may decide."""
    found = [lesson for some in lessons.values() for lesson in some if lesson.dropped]
    for reason, count in Counter(lesson.dropped for lesson in found).most_common():
        say(f"Dropped {count} rows: {reason}.")
    if waiting := sum(lesson.disputed for lesson in found):
        say(f"{waiting} of them wait for a person, if you like: burnish review {run.id}")


def _draw_validation(rows: Mapping[str, Row], recipe: Recipe) -> set[str]:
    """Of rows that the teacher made, those to validate on; a passage isn't torn apart."""
    data = recipe.data
    _, drawn = draw_split(
        list(rows.values()), data.validation_share, data.seed, data.near_duplicate
    )
    return {row.id for row in drawn}


def _document_hashes(recipe: Recipe) -> dict[str, str]:
    """The hashes of the files that questions are written from. Raises BadRecipe without any."""
    if not recipe.distill.questions_per_passage:
        return {}
    if not recipe.rag.documents:
        raise BadRecipe(
            "Questions are to be written from documents, and none are named.",
            "Set rag.documents to a folder.",
        )
    files, _ = find_documents([str(path) for path in recipe.rag.documents])
    return {str(file): hash_file(file) for file in files}


def _with_teacher_answers(
    dataset: Dataset, lessons: Mapping[str, Sequence[TeacherExample]]
) -> Dataset:
    """The dataset with the teacher's answers in the place of its own; the test stays as it was."""

    def kept(part: str) -> tuple[Row, ...]:
        return tuple(lesson.row for lesson in lessons[part] if not lesson.dropped)

    split = replace(dataset.split, train=kept("train"), validation=kept("validation"))
    return replace(dataset, split=split)


def _student_dataset(
    exam: EvaluationSet,
    collector: AnswerCollector,
    student: Recipe,
    lessons: Mapping[str, Sequence[TeacherExample]],
) -> Dataset:
    """What the student learns from: the teacher's answers, or pairs of answers."""
    taught = _with_teacher_answers(exam.dataset, lessons)
    if exam.recipe.distill.pairs == "none":
        return taught
    method = student.train.method
    source = getattr(method, "start", None) or student.model.name
    found = make_pairs(
        lessons, second_answerer(collector, source, exam.question_format(collector)), exam
    )
    save_pairs(collector.run, exam.recipe, found)
    _release_teacher(collector.teacher)
    if student.train.objective.kind not in PREFERENCE_OBJECTIVES:
        return taught
    rows = {part: tuple(one.row for one in some if not one.dropped) for part, some in found.items()}
    if not rows["train"]:
        raise BadData(
            "There is no pair to learn from: no answer is better than the other one.",
            f"See why: {collector.run.path / PAIRS}",
        )
    split = replace(taught.split, train=rows["train"], validation=rows["validation"])
    return replace(taught, split=split)


def _keep_artifact(run: Run, training: Run) -> None:
    """Put the student into the run's own folder."""
    if not run.artifact.exists():
        with atomic_folder(run.artifact) as draft:
            shutil.copytree(training.artifact, draft, dirs_exist_ok=True)
