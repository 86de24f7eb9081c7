"""The metric `graded`: a model's grades, once it has been shown to grade as people do.

Before anything is scored, the judge grades answers that people of this project have graded. Below
`evaluate.judge.least_kappa` nothing is scored. The summary of its scores names the judge.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from burnish.core.errors import BadData, BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.recipe.evaluate import JudgeEndpoint as Settings
from burnish.core.records import Prediction, Row, Scores
from burnish.data.read import read_records
from burnish.evaluate.cohen_kappa import Agreement, measure_agreement
from burnish.evaluate.judge import UNCLEAR, GradingCase, Judge
from burnish.evaluate.scoring import with_interval
from burnish.models.find_artifact import find_artifact

METRIC = "graded"
#: Column of the human file → accepted names; those of `predictions-*.jsonl` too.
_COLUMNS = {
    "question": ("question", "prompt"),
    "answer": ("answer",),
    "verdict": ("verdict",),
    "reference": ("reference", "expected"),
}


@dataclass(frozen=True, slots=True)
class CalibratedJudge:
    """A judge that agrees with people. `related_models` names the compared models that share its
    base."""

    judge: Judge
    agreement: Agreement
    related_models: tuple[str, ...]

    def grade(self, scores: Scores, rows: Sequence[Row], settings: Evaluate) -> Scores:
        """Return the scores by the judge's grades; the text metric's are kept in `extra`. An answer
        without a clear grade gets the lowest one."""
        scale = self.judge.settings.grades
        pairs = list(zip(rows, scores.predictions, strict=True))
        cases = [_grading_case(row, prediction) for row, prediction in pairs]
        grades = self.judge.grade(cases, f"Grading by {self.judge.name}")
        lowest = min(scale.values())
        graded = [
            replace(prediction, score=scale.get(grade, lowest))
            for grade, (_, prediction) in zip(grades, pairs, strict=True)
        ]
        extra = {
            scores.metric: mean(scores.values),
            **scores.extra,
            "no_clear_grade": grades.count(UNCLEAR) / len(grades),
        }
        return with_interval(METRIC, graded, settings, extra)

    @property
    def summary(self) -> str:
        """The statement printed beside every verdict on such scores."""
        kappa = self.agreement.kappa
        statement = (
            f"The scores are grades by a model, {self.judge.name}. On {kappa.n} answers that "
            f"people graded it agrees with them on {self.agreement.share:.0%}, kappa "
            f"{kappa.value:.2f} ({kappa.low:.2f} to {kappa.high:.2f}); the intervals of the "
            "scores don't include its errors."
        )
        related = ", ".join(self.related_models)
        return (
            f"{statement} It may favour {related}, which shares its base." if related else statement
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `--json` prints."""
        agreement = self.agreement
        grades = ["no clear grade" if grade == UNCLEAR else grade for grade in agreement.grades]
        return {
            "name": self.judge.name,
            "endpoint": self.judge.settings.endpoint,
            "kappa": agreement.kappa.value,
            "ci": [agreement.kappa.low, agreement.kappa.high],
            "least_kappa": self.judge.settings.least_kappa,
            "labels": agreement.kappa.n,
            "agreement": agreement.share,
            "grades": grades,
            "confusion": [list(line) for line in agreement.table],
            "partial": list(self.related_models),
            "words": self.summary,
        }


def calibrate_judge(settings: Evaluate, compared: Sequence[str]) -> CalibratedJudge | None:
    """Return the recipe's judge after calibration, or None if the metric isn't `graded`; `compared`
    are the models that it will grade.

    Raises BadRecipe if people graded too few answers, or the judge doesn't agree with them; BadData
    for a file that can't be used.
    """
    if settings.metric != METRIC:
        return None
    judge_settings = settings.judge
    judge = Judge(judge_settings, settings.batch_size)
    cases, human_grades = _read_human_grades(judge_settings)
    grades = judge.grade(cases, f"Grading what people graded, by {judge.name}")
    agreement = measure_agreement(
        human_grades, grades, [*judge_settings.grades, UNCLEAR], settings.confidence, settings.seed
    )
    result = CalibratedJudge(judge, agreement, _find_related_models(judge_settings, compared))
    if not agreement.kappa.value >= judge_settings.least_kappa:
        raise BadRecipe(
            f"{judge.name} doesn't grade as people do: kappa {agreement.kappa.value:.2f} "
            f"({agreement.kappa.low:.2f} to {agreement.kappa.high:.2f}) on {len(human_grades)} "
            f"answers; at least {judge_settings.least_kappa:.2f} is required. "
            f"{_most_frequent_disagreement(agreement)}",
            "Put the instructions of the people into evaluate.judge.rubric, name another model, or "
            "use a text metric. Lowering evaluate.judge.least_kappa only hides it.",
        )
    say(result.summary)
    return result


def _grading_case(row: Row, prediction: Prediction) -> GradingCase:
    """Return an answer as the judge sees it; for a conversation, with all turns."""
    turns = [turn for turn in row.prompt if turn.role != "system"]
    conversation = "\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    return GradingCase(
        conversation if len(turns) > 1 else prediction.prompt, row.answer, prediction.answer
    )


def _read_human_grades(settings: Settings) -> tuple[list[GradingCase], list[str]]:
    """Return graded answers and the people's grades. Raises BadRecipe, BadData."""
    if not settings.human:
        raise BadRecipe(
            "A judge must be calibrated against people, and no file of their grades is named.",
            f"Let people grade {settings.least_labels} answers or more and name the file in "
            "evaluate.judge.human (columns question, answer, reference, verdict).",
        )
    grade_by_name = {grade.strip().casefold(): grade for grade in settings.grades}
    grades: dict[GradingCase, str] = {}
    for file in settings.human:
        for number, record in read_records(file):
            parts = {name: _column_text(record, names) for name, names in _COLUMNS.items()}
            verdict = grade_by_name.get(parts.pop("verdict").strip().casefold())
            if verdict is None or not parts["question"]:
                raise BadData(
                    f"{file}, row {number}: the row needs a question, and a verdict that is one of "
                    f"{', '.join(settings.grades)}.",
                    "Correct the row, or name your own grades in evaluate.judge.grades.",
                )
            case = GradingCase(**parts)
            if grades.setdefault(case, verdict) != verdict:
                raise BadData(
                    f"{file}, row {number}: an earlier row gives the same answer another verdict.",
                    "Let the people agree on one, or leave the answer out.",
                )
    _refuse_few_grades(list(grades.values()), settings)
    return list(grades), list(grades.values())


def _refuse_few_grades(people: Sequence[str], settings: Settings) -> None:
    if len(people) < settings.least_labels:
        raise BadRecipe(
            f"People graded {len(people)} different answers; calibrating a judge needs at least "
            f"{settings.least_labels}.",
            "Let them grade more, including wrong ones.",
        )
    if len(set(people)) < 2:
        raise BadRecipe(
            f"People graded all {len(people)} answers `{people[0]}`, so nothing shows whether a "
            "judge can tell them from others.",
            "Add answers with other grades; those of an untrained model are often wrong.",
        )


def _column_text(record: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((str(record[name]) for name in names if record.get(name) is not None), "")


def _find_related_models(settings: Settings, compared: Sequence[str]) -> tuple[str, ...]:
    """Return the compared models that are the judge or share its base: models favour their own kind
    of answers (Panickssery et al. 2024, arXiv:2404.13076)."""
    judge_base = settings.model if settings.endpoint else _base_of(settings.model)
    return tuple(dict.fromkeys(name for name in compared if _base_of(name) == judge_base))


def _base_of(source: str) -> str:
    artifact = find_artifact(source)
    return artifact.base if artifact else source


def _most_frequent_disagreement(agreement: Agreement) -> str:
    """Describe the most frequent disagreement."""
    counts = Counter(
        {
            (human_grade, judge_grade): agreement.table[row][column]
            for row, human_grade in enumerate(agreement.grades)
            for column, judge_grade in enumerate(agreement.grades)
            if row != column
        }
    )
    ((people, judge), count) = counts.most_common(1)[0]
    verdict = f"`{judge}`" if judge != UNCLEAR else "nothing clear"
    return f"Most often ({count} times) people say `{people}` and it says {verdict}."
