"""The metric `graded`: a model's grades, once it has been shown to grade as people do.

Before anything is scored, the judge grades answers that people of this project have graded. Below
`evaluate.judge.least_kappa` nothing is scored. What it scores later says whose scores they are.
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
#: Column of the human file → the names that it may have; those of `predictions-*.jsonl` too.
_COLUMNS = {
    "question": ("question", "prompt"),
    "answer": ("answer",),
    "verdict": ("verdict",),
    "reference": ("reference", "expected"),
}


@dataclass(frozen=True, slots=True)
class CalibratedJudge:
    """A judge that agrees with people. `partial` names the compared models that are its own kin."""

    judge: Judge
    agreement: Agreement
    related_models: tuple[str, ...]

    def grade(self, scores: Scores, rows: Sequence[Row], settings: Evaluate) -> Scores:
        """The scores by the judge's grades; those of words are kept beside them. An answer without
        a clear grade has the lowest one."""
        worth = self.judge.settings.grades
        both = list(zip(rows, scores.predictions, strict=True))
        cases = [_grading_case(row, one) for row, one in both]
        found = self.judge.grade(cases, f"Grading by {self.judge.name}")
        least = min(worth.values())
        graded = [
            replace(one, score=worth.get(grade, least))
            for grade, (_, one) in zip(found, both, strict=True)
        ]
        extra = {
            scores.metric: mean(scores.values),
            **scores.extra,
            "no_clear_grade": found.count(UNCLEAR) / len(found),
        }
        return with_interval(METRIC, graded, settings, extra)

    @property
    def summary(self) -> str:
        """What stands beside every verdict on such scores."""
        kappa = self.agreement.kappa
        told = (
            f"The scores are grades by a model, {self.judge.name}. On {kappa.n} answers that "
            f"people graded it agrees with them on {self.agreement.share:.0%}, kappa "
            f"{kappa.value:.2f} ({kappa.low:.2f} to {kappa.high:.2f}); the intervals of the "
            "scores don't hold its errors."
        )
        kin = ", ".join(self.related_models)
        return f"{told} It may favour {kin}, which is its own kin." if kin else told

    def as_dict(self) -> dict[str, Any]:
        """The shape that `--json` prints."""
        found = self.agreement
        named = ["no clear grade" if grade == UNCLEAR else grade for grade in found.grades]
        return {
            "name": self.judge.name,
            "endpoint": self.judge.settings.endpoint,
            "kappa": found.kappa.value,
            "ci": [found.kappa.low, found.kappa.high],
            "least_kappa": self.judge.settings.least_kappa,
            "labels": found.kappa.n,
            "agreement": found.share,
            "grades": named,
            "confusion": [list(line) for line in found.table],
            "partial": list(self.related_models),
            "words": self.summary,
        }


def calibrate_judge(settings: Evaluate, compared: Sequence[str]) -> CalibratedJudge | None:
    """The judge of a recipe, if one is to grade; `compared` are the models that it will grade.

    Raises BadRecipe where people graded too little, or the judge doesn't agree with them; BadData
    for a file that can't be used.
    """
    if settings.metric != METRIC:
        return None
    wanted = settings.judge
    judge = Judge(wanted, settings.batch_size)
    cases, people = _read_human_grades(wanted)
    said = judge.grade(cases, f"Grading what people graded, by {judge.name}")
    found = measure_agreement(
        people, said, [*wanted.grades, UNCLEAR], settings.confidence, settings.seed
    )
    result = CalibratedJudge(judge, found, _find_related_models(wanted, compared))
    if not found.kappa.value >= wanted.least_kappa:
        raise BadRecipe(
            f"{judge.name} doesn't grade as people do: kappa {found.kappa.value:.2f} "
            f"({found.kappa.low:.2f} to {found.kappa.high:.2f}) on {len(people)} answers; "
            f"{wanted.least_kappa:.2f} is asked for. {_most_frequent_disagreement(found)}",
            "Say in evaluate.judge.rubric what the people were told, name another model, or take a "
            "metric of words. Lowering evaluate.judge.least_kappa only hides it.",
        )
    say(result.summary)
    return result


def _grading_case(row: Row, prediction: Prediction) -> GradingCase:
    """An answer as the judge sees it; of a conversation it sees all turns."""
    turns = [turn for turn in row.prompt if turn.role != "system"]
    asked = "\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    return GradingCase(
        asked if len(turns) > 1 else prediction.prompt, row.answer, prediction.answer
    )


def _read_human_grades(settings: Settings) -> tuple[list[GradingCase], list[str]]:
    """Answers and the people's grades. Raises BadRecipe, BadData."""
    if not settings.human:
        raise BadRecipe(
            "A judge counts only if it agrees with people, and no file of theirs is named.",
            f"Let people grade {settings.least_labels} answers or more and name the file in "
            "evaluate.judge.human (columns question, answer, reference, verdict).",
        )
    known = {grade.strip().casefold(): grade for grade in settings.grades}
    found: dict[GradingCase, str] = {}
    for file in settings.human:
        for number, record in read_records(file):
            parts = {name: _column_text(record, names) for name, names in _COLUMNS.items()}
            verdict = known.get(parts.pop("verdict").strip().casefold())
            if verdict is None or not parts["question"]:
                raise BadData(
                    f"{file}, row {number}: there is no question with a verdict that is one of "
                    f"{', '.join(settings.grades)}.",
                    "Correct the row, or name your own grades in evaluate.judge.grades.",
                )
            case = GradingCase(**parts)
            if found.setdefault(case, verdict) != verdict:
                raise BadData(
                    f"{file}, row {number}: the same answer has another verdict further up.",
                    "Let the people agree on one, or leave the answer out.",
                )
    _refuse_few_grades(list(found.values()), settings)
    return list(found), list(found.values())


def _refuse_few_grades(people: Sequence[str], settings: Settings) -> None:
    if len(people) < settings.least_labels:
        raise BadRecipe(
            f"People graded {len(people)} different answers; fewer than {settings.least_labels} "
            "say little about a judge.",
            "Let them grade more, among them wrong ones.",
        )
    if len(set(people)) < 2:
        raise BadRecipe(
            f"People graded all {len(people)} answers `{people[0]}`: whether a judge can tell "
            "them from others isn't seen.",
            "Add answers with other grades; those of an untrained model are often wrong.",
        )


def _column_text(record: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((str(record[name]) for name in names if record.get(name) is not None), "")


def _find_related_models(settings: Settings, compared: Sequence[str]) -> tuple[str, ...]:
    """The compared models that are the judge or have its base: models favour what they would say
    themselves (Panickssery et al. 2024, arXiv:2404.13076)."""
    own = settings.model if settings.endpoint else _base_of(settings.model)
    return tuple(dict.fromkeys(name for name in compared if _base_of(name) == own))


def _base_of(source: str) -> str:
    artifact = find_artifact(source)
    return artifact.base if artifact else source


def _most_frequent_disagreement(found: Agreement) -> str:
    """The disagreement that is most frequent."""
    counts = Counter(
        {
            (one, other): found.table[line][place]
            for line, one in enumerate(found.grades)
            for place, other in enumerate(found.grades)
            if line != place
        }
    )
    ((people, judge), count) = counts.most_common(1)[0]
    said = f"`{judge}`" if judge != UNCLEAR else "nothing clear"
    return f"Most often ({count} times) people say `{people}` and it says {said}."
