"""`burnish distill`, top to bottom: a teacher answers, a student learns, both are evaluated."""

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
from burnish.models.local_models import Resolved
from burnish.rag.indexing import find_documents
from burnish.report.page import write_report
from burnish.train.cached_run import train_cached


def distill(recipe: Recipe, out: Path | None = None) -> DistillationResult:
    """Let the teacher answer the training and validation questions, train the student on checked
    answers, and evaluate baseline, student and teacher on the same frozen test rows.

    Raises BadData or BadRecipe before anything is asked; TeacherStopped when the teacher fails too
    often, is unreachable or the budget is spent. After an interruption, the same command resumes
    with all answers and the training found so far.
    """
    _refuse_judge(recipe)
    recipe = _with_teachers_task(_with_teachers_named(recipe))
    dataset = load(recipe, answered=False)
    dataset.announce()
    recipe = recipe.model_copy(update={"task": dataset.task})
    rows = sample_rows(dataset.split.test, recipe.evaluate.max_rows, recipe.evaluate.seed)
    refuse_unanswerable(rows)
    _refuse_unanswered(recipe, dataset)
    evaluation_set = EvaluationSet(recipe, dataset, rows)
    refuse_ungraded(recipe, dataset)
    teacher = open_teacher(recipe)
    others = [(open_teacher(other), other) for other in _further_recipes(recipe)]
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
        further = [AnswerCollector(other, run, other_recipe) for other, other_recipe in others]
        examples = _collect_examples(evaluation_set, collector, further)
        _say_disputed(run, examples)
        diversity = measure_diversity(evaluation_set, examples)
        for warning in diversity.warnings():
            say(f"Note: {warning}")
        save_examples(run, teacher, recipe, examples)
        taught = _student_dataset(evaluation_set, collector, student, examples)
        training = train_cached(student, taught)
        _keep_artifact(run, training)
        routes = {BASELINE: evaluate_baseline(evaluation_set, student)}
        if recipe.distill.fine_tuned:
            say("Training on the rows' own answers")
            source = str(train_cached(sequence_level(student), dataset).artifact)
            routes[FINE_TUNED] = evaluate_model(evaluation_set, FINE_TUNED, source)
        routes[DISTILLED] = evaluate_model(evaluation_set, DISTILLED, str(training.artifact))
        routes[TEACHER] = evaluate_teacher(evaluation_set, collector)
        accounts = {other.teacher.name: other.budget.as_dict() for other in further}
        result = DistillationResult(
            run, evaluation_set, routes, training, examples, collector.budget.as_dict(), diversity
        )
        return _write_report(replace(result, further_teachers=accounts))


def _refuse_unanswered(recipe: Recipe, dataset: Dataset) -> None:
    """Raise BadRecipe if a student is to learn the rows' own answers, and some rows have none."""
    answers = [row.answer for row in dataset.split.train]
    if recipe.distill.fine_tuned and not (answers and all(answers)):
        raise BadRecipe(
            "Some training rows have no answer of their own to train on.",
            "Set distill.fine_tuned=false.",
        )


def _refuse_judge(recipe: Recipe) -> None:
    """Raise BadRecipe for a judge: distillation compares texts by a metric."""
    if recipe.evaluate.metric == "graded":
        raise BadRecipe(
            "burnish distill needs a text metric; evaluate.metric is graded.",
            "Use another metric here, and `graded` in burnish compare or burnish evaluate.",
        )


def _write_report(result: DistillationResult) -> DistillationResult:
    """Write the run's predictions and reports."""
    run = result.run
    for name, measurement in result.routes.items():
        save_predictions(run.path / f"predictions-{name}.jsonl", measurement.scores.predictions)
    command = shlex.join(["burnish", "distill", str(run.path / "recipe.yaml")])
    write_report(distillation_contents(result, command), run.path / "report.html")
    write_json(run.path / "report.json", result.as_dict())
    run.events.write(event="distilled", decision=result.decision)
    return result


#: The settings that an answer depends on; a teacher's other settings concern pace and price.
_QUESTION_SETTINGS = ("model", "endpoint", "temperature", "top_p", "max_new_tokens")


def _allow_resume(recipe: Recipe, out: Path | None) -> None:
    """Let the unfinished run at `out` resume with another pace or budget."""
    if not out or not (out / "recipe.yaml").exists() or (out / "report.json").exists():
        return
    before, now = load_recipe(out / "recipe.yaml"), recipe.distill
    same = _question_settings(before.distill) == _question_settings(now)
    settings = before.distill.model_copy(update={"teacher": now.teacher, "teachers": now.teachers})
    if same and before.model_copy(update={"distill": settings}) == recipe:
        recipe.save(out / "recipe.yaml")


def _question_settings(settings: Distill) -> list[list[object]]:
    endpoints = (settings.teacher, *settings.teachers)
    return [[getattr(teacher, name) for name in _QUESTION_SETTINGS] for teacher in endpoints]


def _with_teachers_named(recipe: Recipe) -> Recipe:
    """Replace `last` by the id of the currently last run: it is about to change."""
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
    """Return the recipe once per further teacher, with that one in the first's place."""
    return [
        recipe.model_copy(
            update={"distill": recipe.distill.model_copy(update={"teacher": settings})}
        )
        for settings in recipe.distill.teachers
    ]


def _with_teachers_task(recipe: Recipe) -> Recipe:
    """Fill in what the recipe leaves open about the task from a local teacher's training."""
    settings = recipe.distill.teacher
    if settings.endpoint or not settings.model:
        return recipe
    artifact = find_artifact(settings.model)
    return recipe.model_copy(update={"task": resolve_task(recipe.task, artifact)})


def _collect_examples(
    evaluation_set: EvaluationSet, collector: AnswerCollector, further: Sequence[AnswerCollector]
) -> dict[str, list[TeacherExample]]:
    """Return training and validation rows as the teacher answers and writes them, checked."""
    recipe, split, task = (
        evaluation_set.recipe,
        evaluation_set.dataset.split,
        evaluation_set.dataset.task,
    )
    question_format = evaluation_set.question_format(collector)
    rows = (*split.train, *split.validation)
    collected = collector.collect(rows, question_format)
    if recipe.distill.self_instruct:
        collected += self_instruct(collector, split.train, question_format, recipe)
    if recipe.distill.evol_instruct:
        collected += evol_instruct(collector, split.train, question_format, recipe)
    for other in further:
        _release_teacher(collector.teacher)
        collected = add_opinions(collected, other, evaluation_set.question_format(other))
        _release_teacher(other.teacher)
    if recipe.distill.questions_per_passage:
        collected += _write_from_documents(collector, further)
    _release_teacher(collector.teacher)
    near = (recipe.distill.near_duplicate, recipe.data.near_duplicate)
    apply_agreement, apply_decisions = (
        agreement_filter(recipe, task),
        decision_filter(load_decisions(collector.run)),
    )
    norms = answer_norms([row for row in rows if row.answer], task)
    collected = check_examples(
        collected,
        norms,
        split.test,
        near,
        lambda example: apply_decisions(apply_agreement(example)),
    )
    examples = _split(collected, split, recipe)
    if not any(not example.dropped for example in examples["train"]):
        raise BadData(
            "None of the teacher's answers passed the checks.",
            f"See why: {collector.run.path / 'requests.jsonl'}",
        )
    return examples


def _write_from_documents(
    collector: AnswerCollector, further: Sequence[AnswerCollector]
) -> list[TeacherExample]:
    """Return the rows that the teacher writes about the passages, with the others' answers."""
    passages = read_passages(collector.recipe)
    examples = write_questions(collector, passages, collector.recipe)
    for other in further:
        _release_teacher(collector.teacher)
        examples = add_reader_opinions(examples, other, passages)
        _release_teacher(other.teacher)
    return examples


def _split(
    examples: Sequence[TeacherExample], split: Split, recipe: Recipe
) -> dict[str, list[TeacherExample]]:
    """Return the examples by their rows' part; new ones are drawn into both."""
    count, train_count = len(split.train) + len(split.validation), len(split.train)
    original, new = examples[:count], examples[count:]
    validation_ids = _draw_validation(
        {example.original.id: example.row for example in new if not example.dropped}, recipe
    )
    return {
        "train": [
            *original[:train_count],
            *(example for example in new if example.original.id not in validation_ids),
        ],
        "validation": [
            *original[train_count:],
            *(example for example in new if example.original.id in validation_ids),
        ],
    }


def _release_teacher(teacher: Answerer) -> None:
    """Free a local teacher's memory until it is asked again."""
    if isinstance(teacher, LocalAnswerer):
        teacher.release_memory()


def _say_disputed(run: Run, examples: Mapping[str, Sequence[TeacherExample]]) -> None:
    """Report what was dropped, and what a person may decide."""
    dropped = [
        example
        for part_examples in examples.values()
        for example in part_examples
        if example.dropped
    ]
    for reason, count in Counter(example.dropped for example in dropped).most_common():
        say(f"Dropped {count} rows: {reason}.")
    if waiting := sum(example.disputed for example in dropped):
        say(f"{waiting} of them can be reviewed by a person: burnish review {run.id}")


def _draw_validation(rows: Mapping[str, Row], recipe: Recipe) -> set[str]:
    """Return the ids of generated rows to validate on; the rows of a passage stay together."""
    data = recipe.data
    _, drawn = draw_split(
        list(rows.values()), data.validation_share, data.seed, data.near_duplicate
    )
    return {row.id for row in drawn}


def _document_hashes(recipe: Recipe) -> dict[str, str]:
    """Return the hashes of the documents to write questions from. Raises BadRecipe without any."""
    if not recipe.distill.questions_per_passage:
        return {}
    if not recipe.rag.documents:
        raise BadRecipe(
            "distill.questions_per_passage needs documents, and none are named.",
            "Set rag.documents to a folder.",
        )
    files, _ = find_documents([str(path) for path in recipe.rag.documents])
    return {str(file): hash_file(file) for file in files}


def _with_teacher_answers(
    dataset: Dataset, examples: Mapping[str, Sequence[TeacherExample]]
) -> Dataset:
    """Return the dataset with the teacher's answers in place of its own; the test rows stay."""

    def kept(part: str) -> tuple[Row, ...]:
        return tuple(example.row for example in examples[part] if not example.dropped)

    split = replace(dataset.split, train=kept("train"), validation=kept("validation"))
    return replace(dataset, split=split)


def _student_dataset(
    evaluation_set: EvaluationSet,
    collector: AnswerCollector,
    student: Recipe,
    examples: Mapping[str, Sequence[TeacherExample]],
) -> Dataset:
    """Return what the student is trained on: the teacher's answers, or pairs of answers."""
    dataset = _with_teacher_answers(evaluation_set.dataset, examples)
    if evaluation_set.recipe.distill.pairs == "none":
        return dataset
    method = student.train.method
    source = getattr(method, "start", None) or student.model.name
    pairs = make_pairs(
        examples,
        second_answerer(collector, source, evaluation_set.question_format(collector)),
        evaluation_set,
    )
    save_pairs(collector.run, evaluation_set.recipe, pairs)
    _release_teacher(collector.teacher)
    if student.train.objective.kind not in PREFERENCE_OBJECTIVES:
        return dataset
    rows = {
        part: tuple(pair.row for pair in part_pairs if not pair.dropped)
        for part, part_pairs in pairs.items()
    }
    if not rows["train"]:
        raise BadData(
            "There is no pair to train on: no answer is better than the other one.",
            f"See why: {collector.run.path / PAIRS}",
        )
    split = replace(dataset.split, train=rows["train"], validation=rows["validation"])
    return replace(dataset, split=split)


def _keep_artifact(run: Run, training: Run) -> None:
    """Copy the student into the run's own folder."""
    if not run.artifact.exists():
        with atomic_folder(run.artifact) as draft:
            shutil.copytree(training.artifact, draft, dirs_exist_ok=True)
