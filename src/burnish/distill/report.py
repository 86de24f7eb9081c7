"""The result of a distillation: table, savings, report page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from burnish.core.recipe.objectives import Classify
from burnish.core.records import Interval, Scores
from burnish.core.runs import Run, versions
from burnish.core.stats import PairedTest, paired_test
from burnish.distill.diversity import Diversity, compute_diversity
from burnish.distill.evaluation import (
    BASELINE,
    DISTILLED,
    FINE_TUNED,
    TEACHER,
    EvaluationSet,
    Savings,
    measure_savings,
    model_summary,
)
from burnish.distill.teacher_answers import TeacherExample
from burnish.evaluate.prediction_cache import Measurement
from burnish.report.contents import ReportContents
from burnish.report.parts import (
    forecast_lines,
    hardest_classes,
    pick_examples,
    route_line,
    training_curves,
    training_diagnoses,
)


@dataclass(frozen=True, slots=True)
class DistillationResult:
    """The result. `training` is the student's run, `accounts` those of the teacher, `diversity`
    that of the training rows, `further_teachers` the accounts of other teachers by name."""

    run: Run
    evaluation_set: EvaluationSet
    routes: Mapping[str, Measurement]
    training: Run
    examples: Mapping[str, Sequence[TeacherExample]]
    accounts: Mapping[str, float]
    diversity: Diversity
    further_teachers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def test(self) -> PairedTest:
        """The trained student against the untrained one, on the same questions."""
        distilled, baseline = (self.routes[name].scores for name in (DISTILLED, BASELINE))
        return paired_test(
            *distilled.paired_with(baseline), self.evaluation_set.recipe.evaluate.confidence
        )

    @property
    def decision(self) -> str:
        """`learnt` if the student is better than before, beyond chance; else `not_learnt`."""
        return (
            "learnt"
            if self.test.p_value < self.evaluation_set.recipe.compare.alpha
            else "not_learnt"
        )

    @property
    def exit_code(self) -> int:
        """0 if the decision is `learnt`, else 1."""
        return 0 if self.decision == "learnt" else 1

    @property
    def savings(self) -> Savings:
        """Time and memory saved, and quality kept."""
        return measure_savings(
            self.routes[DISTILLED], self.routes[TEACHER], self.evaluation_set.recipe
        )

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores of every model."""
        return {name: route.scores for name, route in self.routes.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish distill --json` prints."""
        recipe = self.evaluation_set.recipe
        summaries = [model_summary(name, self.routes, recipe) for name in self.routes]
        return {
            "run": self.run.id,
            "artifact": str(self.run.artifact),
            "decision": self.decision,
            "saved": asdict(self.savings),
            "routes": [
                {**line, "gain": asdict(line["gain"]) if line["gain"] else None}
                for line in summaries
            ],
            "teacher": dict(self.accounts),
            "teachers": {name: dict(accounts) for name, accounts in self.further_teachers.items()},
            "rows": self.counts(),
            "disputed": sum(example.disputed for example in self.all_examples()),
            "reviewed": sum(example.review is not None for example in self.all_examples()),
            "dropped": dict(self.dropped()),
            "agreement": self.agreement(),
            "variety": self.diversity.as_dict(),
            "training": self.training.id,
            "currency": recipe.compare.currency,
            "report": str(self.run.path / "report.html"),
        }

    def counts(self) -> dict[str, int]:
        """Return the number of training and validation rows, and of test questions."""
        kept = {
            part: sum(not example.dropped for example in part_examples)
            for part, part_examples in self.examples.items()
        }
        return {**kept, "test": len(self.evaluation_set.rows)}

    def dropped(self) -> Counter[str]:
        """Return the number of dropped rows by reason."""
        return Counter(example.dropped for example in self.all_examples() if example.dropped)

    def agreement(self) -> float | None:
        """Return the share of rows with a reference answer to which the teacher gave the same."""
        examples = self.all_examples()
        answered = [
            example for example in examples if example.original.answer and not example.dropped
        ]
        same = sum(
            example.row.answer.strip() == example.original.answer.strip() for example in answered
        )
        return same / len(answered) if answered else None

    def all_examples(self) -> list[TeacherExample]:
        """Return all examples, of both parts."""
        return [example for part_examples in self.examples.values() for example in part_examples]

    def as_text(self) -> str:
        """Return the result for the terminal."""
        first = self.routes[BASELINE].scores
        level = f"{self.evaluation_set.recipe.evaluate.confidence:.0%}"
        lines = [
            f"  {'model':<11} {first.metric} on {first.interval.n} questions ({level} interval)"
        ]
        for name in self.routes:
            route = model_summary(name, self.routes, self.evaluation_set.recipe)
            low, high = route["ci"]
            spread = f"{route['value']:7.1%}  ({low:.1%} to {high:.1%})"
            memory = (
                f"{route['memory_bytes'] / 1e6:.0f} MB" if route["memory_bytes"] else "elsewhere"
            )
            lines.append(
                f"  {name:<11} {spread:<26} {route['latency_p50_s'] * 1000:6.0f} ms p50 "
                f"{route['latency_p95_s'] * 1000:6.0f} ms p95  {memory}"
            )
        parts = [self.headline(), self.paragraph(), "\n".join(lines)]
        page = self.run.path / "report.html"
        word = (
            "serve" if isinstance(self.evaluation_set.recipe.train.objective, Classify) else "chat"
        )
        return "\n\n".join([*parts, f"Report: {page}\nTry it: burnish {word} {self.run.id}"])

    def headline(self) -> str:
        """Return the savings in a sentence."""
        saved = self.savings
        kept = f"{saved.quality.value:.1%} of the teacher's {_metric(self)}"
        if saved.time is None or saved.memory is None:
            return f"The student keeps {kept}."
        return (
            f"The student keeps {kept}, takes {_format_change(saved.time.value)} time and "
            f"{_format_change(saved.memory)} memory."
        )

    def paragraph(self) -> str:
        """Return what was measured, with its intervals, and against what."""
        saved, test = self.savings, self.test
        level = f"{self.evaluation_set.recipe.evaluate.confidence:.0%}"
        parts = [
            f"On {test.gain.n} questions answered by people, the student went from "
            f"{self.routes[BASELINE].scores.interval.value:.1%} to "
            f"{self.routes[DISTILLED].scores.interval.value:.1%} (gain "
            f"{100 * test.gain.value:+.1f} points, {level} interval {100 * test.gain.low:+.1f} to "
            f"{100 * test.gain.high:+.1f}); the teacher reaches "
            f"{self.routes[TEACHER].scores.interval.value:.1%}. Quality kept: "
            f"{saved.quality.value:.1%} ({_format_interval(saved.quality)})."
        ]
        if saved.time is not None and saved.memory is not None:
            parts.append(
                f"Inference time saved: {saved.time.value:.1%} ({_format_interval(saved.time)}, "
                f"{saved.time.n} single requests). Memory of the weights saved: "
                f"{saved.memory:.1%}."
            )
        if FINE_TUNED in self.routes:
            distilled, fine_tuned = (self.scores[name] for name in (DISTILLED, FINE_TUNED))
            gain = paired_test(
                *distilled.paired_with(fine_tuned), self.evaluation_set.recipe.evaluate.confidence
            ).gain
            parts.append(
                f"Trained on the rows' own answers, the same student reaches "
                f"{self.scores[FINE_TUNED].interval.value:.1%}: the teacher's answers gain "
                f"{100 * gain.value:+.1f} points over them ({100 * gain.low:+.1f} to "
                f"{100 * gain.high:+.1f})."
            )
        return " ".join(parts)


def measure_diversity(
    evaluation_set: EvaluationSet, examples: Mapping[str, Sequence[TeacherExample]]
) -> Diversity:
    """Return labels, lengths and variety of the training rows, compared with people's."""
    split = evaluation_set.dataset.split
    training_rows = [
        example.row
        for part_examples in examples.values()
        for example in part_examples
        if not example.dropped
    ]
    original = (*split.train, *split.validation)
    return compute_diversity(
        training_rows, original, evaluation_set.dataset.task, evaluation_set.recipe.data.seed
    )


def distillation_contents(result: DistillationResult, command: str) -> ReportContents:
    """Return the report's contents."""
    recipe, dataset, scores = (
        result.evaluation_set.recipe,
        result.evaluation_set.dataset,
        result.scores,
    )
    return ReportContents(
        title=f"What did the student learn? {result.run.id}",
        decision=result.decision,
        headline=result.headline(),
        paragraph=result.paragraph(),
        routes=[
            route_line(model_summary(name, result.routes, recipe), scores[name]) for name in scores
        ],
        incumbent=BASELINE,
        confidence=recipe.evaluate.confidence,
        currency=recipe.compare.currency,
        curves=training_curves(result.training),
        diagnoses=training_diagnoses(result.training),
        classes=hardest_classes(scores, DISTILLED) if dataset.task.kind == "classification" else (),
        examples=pick_examples(scores, TEACHER, DISTILLED),
        findings=dataset.findings,
        forecast=forecast_lines(result.training),
        facts=_facts(result),
        hashes={**dataset.hashes, **versions()},
        reproduce=command,
    )


def _facts(result: DistillationResult) -> dict[str, str]:
    recipe, saved, counts = result.evaluation_set.recipe, result.savings, result.counts()
    accounts, teacher = result.accounts, recipe.distill.teacher
    kept = f"{saved.quality.value:.1%} ({_format_interval(saved.quality)})"
    facts = {
        "Share of the teacher's quality kept": kept,
        "Inference time saved": f"{saved.time.value:.1%} ({_format_interval(saved.time)})"
        if saved.time
        else "not measured: the teacher runs elsewhere",
        "Memory saved": "not measured: the teacher runs elsewhere"
        if saved.memory is None
        else f"{saved.memory:.1%} of the weights",
        "Teacher": f"{teacher.model} {teacher.endpoint}".strip(),
        "Student": f"{recipe.model.name}"
        + (
            f", cut to {', '.join(recipe.distill.pruning_steps)}"
            if recipe.distill.pruning_steps
            else ""
        ),
        "Objective": recipe.train.objective.kind,
        "Rows trained on": f"{counts['train']} to train, {counts['validation']} to validate",
        "Questions to the teacher": f"{accounts['asked']:.0f} asked, {accounts['failed']:.0f} "
        f"failed, {accounts['known_before']:.0f} known before",
        "Teacher's tokens": f"{accounts['tokens_in']:,.0f} in, {accounts['tokens_out']:,.0f} out",
        "Teacher's price": f"{accounts['money']:.4f} {recipe.compare.currency}",
    }
    if (same := result.agreement()) is not None:
        facts["Teacher and people agree"] = f"on {same:.1%} of the rows"
    facts |= result.diversity.facts()
    for name, other_accounts in result.further_teachers.items():
        money = f"{other_accounts['money']:.4f} {recipe.compare.currency}"
        facts[f"Asked too: {name}"] = f"{other_accounts['asked']:.0f} questions, {money}"
    if reviewed := sum(example.review is not None for example in result.all_examples()):
        facts["Decided by a person"] = f"{reviewed} rows"
    facts |= {f"Dropped: {reason}": str(n) for reason, n in result.dropped().most_common()}
    if teacher.terms:
        facts["Provider's terms"] = teacher.terms
    notes = enumerate(result.evaluation_set.dataset.notes, start=1)
    return facts | {f"Data, {number}": note for number, note in notes}


def _metric(result: DistillationResult) -> str:
    return result.routes[TEACHER].scores.metric.replace("_", " ")


def _format_change(saved: float) -> str:
    return f"{saved:.1%} less" if saved >= 0 else f"{-saved:.1%} more"


def _format_interval(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"
