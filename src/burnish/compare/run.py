"""`burnish compare`, top to bottom: was fine-tuning worth it?"""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from burnish.compare.break_even import TrainingCosts, Work, costs_in_words, training_costs
from burnish.compare.by_type import TypeScores, format_types, refuse_without_types, scores_by_type
from burnish.compare.encoder import refuse_encoders
from burnish.compare.expectations import Expectation, check_expectations, list_expectations
from burnish.compare.forgetting import Forgetting
from burnish.compare.looks import alpha_of, look_at
from burnish.compare.report import comparison_contents
from burnish.compare.retrieval import open_documents
from burnish.compare.routes import ROUTES, ComparisonSetup, refuse_text_only_routes, with_routes
from burnish.compare.runner import RouteRunner
from burnish.compare.teacher_ceiling import CEILING, ceiling_coverage
from burnish.compare.verdict import (
    INCUMBENT,
    TRAINED_ROUTES,
    Verdict,
    best_trained,
    better_than_incumbent,
    compare_with_incumbent,
    decide,
    fully_measured,
    seeds_in_words,
    stopped_early_in_words,
)
from burnish.core.atomic import hash_file, write_json
from burnish.core.errors import AuditFailed
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Finding, Interval, Row, Scores
from burnish.core.runs import Run, reopen_or_new_run
from burnish.core.stats import PairedTest
from burnish.data.load import Dataset, load
from burnish.data.split import sample_rows
from burnish.engines.answerers.registry import compute_price, open_teacher
from burnish.evaluate.judge_calibration import CalibratedJudge, calibrate_judge
from burnish.evaluate.latency import waited
from burnish.evaluate.prediction_cache import Measurement
from burnish.evaluate.scoring import save_predictions, summary
from burnish.evaluate.tasks import refuse_unanswerable
from burnish.models.local_models import Resolved
from burnish.models.token_audit import audit
from burnish.report.page import write_report
from burnish.train.registry import check_supported


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result: verdict, every route's scores, and what was lost on the way."""

    run: Run
    dataset: Dataset
    recipe: Recipe
    verdict: Verdict
    routes: Mapping[str, Measurement]
    tests: Mapping[str, PairedTest]
    reseeded: Mapping[int, Scores]
    forgetting: Forgetting | None
    coverage: Mapping[str, Interval]
    types: Mapping[str, TypeScores]
    expected: Sequence[Expectation]
    training: str | None
    training_seconds: float
    classifier: str | None
    encoder: str | None
    judge: CalibratedJudge | None

    @property
    def exit_code(self) -> int:
        """0 if the fine-tune should ship, else 1; where none was measured, 0 if any other route is
        better than the plain prompt."""
        if self.verdict.judged:
            return 0 if self.verdict.decision == "ship" else 1
        return 0 if self.better else 1

    @property
    def better(self) -> list[str]:
        """The routes that beat the plain prompt by more than luck, Holm-adjusted; no ceiling."""
        alpha = alpha_of(self.recipe.compare.alpha, self.verdict.look)
        return better_than_incumbent(self.tests, alpha)

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish compare --json` prints."""
        split, task = self.dataset.split, self.dataset.task
        return {
            "run": self.run.id,
            "verdict": asdict(self.verdict),
            "beats_incumbent": self.better,
            "routes": [self._route_dict(name) for name in self.routes],
            "judge": self.judge.as_dict() if self.judge else None,
            "given_up": self.stopped_early,
            "seeds": self.seeds,
            "forgetting": asdict(self.forgetting) if self.forgetting else None,
            "covered": {name: asdict(share) for name, share in self.coverage.items()},
            "types": {
                kind: {name: asdict(share) for name, share in found.scores.items()}
                for kind, found in self.types.items()
            },
            "leads": {kind: asdict(found.lead) for kind, found in self.types.items() if found.lead},
            "expected": [asdict(one) for one in self.expected],
            "costs": self._costs_dict(),
            "inferred": {
                "task": task.kind,
                "labels": list(task.labels),
                "rows": {
                    "train": len(split.train),
                    "validation": len(split.validation),
                    "test": len(split.test),
                },
                "notes": list(self.dataset.notes),
            },
            "currency": self.recipe.compare.currency,
            "confidence": self.recipe.evaluate.confidence,
            "training": self.training,
            "classifier": self.classifier,
            "encoder": self.encoder,
            "report": str(self.run.path / "report.html"),
        }

    def _route_dict(self, name: str) -> dict[str, Any]:
        """A request's price is the machine's hour, shared by the answers that it gives in one; that
        of a teacher elsewhere is the price of its tokens."""
        route, test = self.routes[name], self.tests.get(name)
        facts = summary(name, route.scores, route.latencies)
        teacher = self.recipe.distill.teacher
        if name == CEILING and teacher.endpoint:
            cost = 1000 * compute_price(teacher, facts["tokens_in"], facts["tokens_out"])
        else:
            hours = facts["seconds_in_batch"] * 1000 / 3600
            cost = hours * self.recipe.compare.price_per_hour
        return {
            **facts,
            "p_value": test.p_value if test else None,
            "gain": asdict(test.gain) if test else None,
            "memory_bytes": route.memory_bytes,
            "busy": route.busy,
            "cost_per_1000": cost,
        }

    @property
    def stopped_early(self) -> dict[str, int]:
        """The routes that were not asked every question, with the number that they were asked."""
        scores = {name: route.scores for name, route in self.routes.items()}
        whole = fully_measured(scores)
        return {name: one.interval.n for name, one in scores.items() if name not in whole}

    @property
    def seeds(self) -> dict[int, float]:
        """The judged route's score by the seed of its training; empty if there was one."""
        if not self.reseeded:
            return {}
        first = self.routes[self.verdict.judged].scores.interval.value
        others = {seed: scores.interval.value for seed, scores in self.reseeded.items()}
        return {self.recipe.train.seed: first, **others}

    @property
    def costs(self) -> TrainingCosts | None:
        """What the training of the judged route costs, and when it has paid; none without one."""
        judged = self.verdict.judged
        if not judged or not self.training:
            return None
        work = {name: self._work(name) for name in self.routes}
        hour, level = self.recipe.compare.price_per_hour, self.recipe.evaluate.confidence
        return training_costs(work, judged, self.training_seconds, hour, level)

    def _work(self, name: str) -> Work:
        facts, route = self._route_dict(name), self.routes[name]
        tokens = facts["tokens_in"] + facts["tokens_out"]
        return Work(tokens, route.latencies, facts["cost_per_1000"], route.busy)

    def _costs_dict(self) -> dict[str, Any] | None:
        costs = self.costs
        hour = self.recipe.compare.price_per_hour
        return (
            {**asdict(costs), "price_per_hour": hour, "words": costs_in_words(costs)}
            if costs
            else None
        )

    def as_text(self) -> str:
        """What a person reads on the terminal."""
        lines = []
        width = max(len("few_shot  "), *map(len, self.routes)) + 1
        for name in self.routes:
            route = self._route_dict(name)
            low, high = route["ci"]
            spread = f"{route['value']:7.1%}  ({low:.1%} to {high:.1%})"
            p_value = "" if route["p_value"] is None else f"p = {route['p_value']:.2g}"
            lines.append(
                f"  {name:<{width}} {spread:<26} {p_value:<12} "
                f"{waited(route):<22} {route['tokens_in']:6.0f} tokens in"
            )
        scores = fully_measured({name: route.scores for name, route in self.routes.items()})
        first = next(iter(scores.values()))
        level = f"{self.recipe.evaluate.confidence:.0%}"
        asked = f"{first.metric} on {first.interval.n} questions ({level} interval)"
        heads = f"  {'route':<{width}} {asked}"
        parts = [f"{self.verdict.headline} {self.verdict.reason}", "\n".join([heads, *lines])]
        if self.stopped_early:
            parts.append(stopped_early_in_words(self.stopped_early))
        if self.tests:
            better = ", ".join(self.better) or "no route"
            parts.append(f"Better than the plain prompt, by more than luck: {better}.")
        if self.expected:
            told = [f"  {one.outcome:<12}  {one.says}" for one in self.expected]
            parts.append("\n".join(["Rules of thumb, before and after:", *told]))
        if self.types:
            parts.append(format_types(self.types))
        if self.coverage:
            parts.append(self._ceiling_text())
        if costs := self.costs:
            parts.append(costs_in_words(costs))
        if self.seeds:
            parts.append(seeds_in_words(self.seeds))
        if self.forgetting:
            parts.append(self.forgetting.words)
        hint = f"\nTry the fine-tune: burnish chat {self.run.id}" if self.training else ""
        if self.classifier:
            hint += f"\nUse the classifier: burnish serve {self.classifier}"
        if self.encoder:
            hint += f"\nUse the encoder: burnish serve {self.encoder}"
        parts.append(f"Report: {self.run.path / 'report.html'}{hint}")
        return "\n\n".join(parts)

    def _ceiling_text(self) -> str:
        shares = ", ".join(
            f"{name} {share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
            for name, share in self.coverage.items()
        )
        return f"Of the distance from the plain prompt to the teacher each covers: {shares}."


def compare(recipe: Recipe, dataset: Dataset | None = None, out: Path | None = None) -> Comparison:
    """Measure every route of the recipe on the same frozen test split and give a verdict.

    Raises BadData before anything is measured if the data has errors or fails the token audit,
    BadRecipe if a model is to grade that doesn't agree with people.
    Interrupted, it finds its answers and its training again when the same command is repeated.
    """
    begun = time.time()
    refuse_encoders(recipe)
    base = Resolved.of(recipe).base
    check_supported(recipe, base)
    dataset = dataset or load(recipe)
    recipe = with_routes(recipe.model_copy(update={"task": dataset.task}), dataset.task, base.kind)
    rows = sample_rows(dataset.split.test, recipe.evaluate.max_rows, recipe.evaluate.seed)
    _refuse_unaskable(recipe, rows)
    setting = _audit_tokens(_with_documents(ComparisonSetup(recipe, dataset, rows)))
    if CEILING in recipe.compare.routes:
        open_teacher(recipe)
    setting = _with_judge(setting)
    dataset = setting.dataset
    inputs = {"data": dict(dataset.hashes), "base": base.identity}
    run = reopen_or_new_run("compare", recipe, inputs, out)

    rules = list_expectations(recipe, dataset)
    for one in rules:
        say(f"Expected before measuring: {one.says} ({one.because})")
    run.events.write(event="expected", rules=[one.says for one in rules])
    models = RouteRunner(setting, run)
    routes = _measure_routes(models, recipe.compare.routes)
    scores = {name: route.scores for name, route in routes.items()}
    judged = best_trained(scores)
    again = models.reseed(judged) if judged else {}
    if judged:
        models.save_artifact(judged)
    forgetting = models.measure_forgetting(judged) if recipe.compare.forgetting and judged else None
    training = models.trainings[judged] if judged else None
    confidence = recipe.evaluate.confidence

    verdict = decide(scores, recipe.compare, list(again.values()), look_at(rows, scores, run.id))
    result = Comparison(
        run=run,
        dataset=dataset,
        recipe=recipe,
        verdict=_with_judge_note(verdict, setting),
        routes=routes,
        tests=compare_with_incumbent(scores, recipe.compare, confidence),
        reseeded=again,
        forgetting=forgetting,
        expected=check_expectations(rules, scores, recipe.compare.least_gain, confidence),
        coverage=ceiling_coverage(scores, INCUMBENT, confidence, recipe.evaluate.seed),
        types=scores_by_type(scores, rows, confidence, recipe.evaluate.seed),
        training=training.id if training else None,
        training_seconds=training.read("report.json")["train_seconds"] if training else 0.0,
        classifier=fitted.id if (fitted := models.trainings.get("classifier")) else None,
        encoder=tuned.id if (tuned := models.trainings.get("encoder")) else None,
        judge=setting.judge,
    )
    _write(result, training, time.time() - begun)
    return result


def _refuse_unaskable(recipe: Recipe, rows: Sequence[Row]) -> None:
    """Raise BadData or BadRecipe for test rows that not all routes can be measured on."""
    refuse_unanswerable(rows)
    refuse_without_types(recipe.data.question_type, rows)
    refuse_text_only_routes(recipe.compare.routes, rows)


def _with_judge(setting: ComparisonSetup) -> ComparisonSetup:
    """The setting with a judge that agrees with people, if one is to grade; what they graded is an
    input."""
    recipe = setting.recipe
    teacher = [recipe.distill.teacher.model] if CEILING in recipe.compare.routes else []
    judge = calibrate_judge(recipe.evaluate, [recipe.model.name, *teacher])
    if judge is None:
        return setting
    people = {str(file): hash_file(file) for file in recipe.evaluate.judge.human}
    hashes = {**setting.dataset.hashes, **people}
    return replace(setting, judge=judge, dataset=replace(setting.dataset, hashes=hashes))


def _with_judge_note(verdict: Verdict, setting: ComparisonSetup) -> Verdict:
    """The verdict; where a model has graded, with a note that says so."""
    if not setting.judge:
        return verdict
    return replace(verdict, reason=f"{verdict.reason} {setting.judge.summary}")


def _measure_routes(models: RouteRunner, names: Sequence[str]) -> dict[str, Measurement]:
    """Every route; where one may be given up, those that learn first: beside them it shows soon."""
    routes: dict[str, Measurement] = {}
    order = sorted(
        names, key=lambda name: models.stops_early and ROUTES[name].training_rows is None
    )
    for name in order:
        beside = {one: found.scores for one, found in routes.items() if one != CEILING}
        routes[name] = models.measure(name, beside)
    return {name: routes[name] for name in names}


def _write(result: Comparison, training: Run | None, seconds: float) -> None:
    """Leave the answers and the report in the run's folder."""
    run, scores = result.run, {name: route.scores for name, route in result.routes.items()}
    answers = {**scores}
    for seed, found in result.reseeded.items():
        answers[f"{result.verdict.judged}-seed-{seed}"] = found
    for name, found in answers.items():
        save_predictions(run.path / f"predictions-{name}.jsonl", found.predictions)
    command = shlex.join(["burnish", "compare", str(run.path / "recipe.yaml")])
    contents = comparison_contents(result.as_dict(), scores, result.dataset, training, command)
    write_report(contents, run.path / "report.html")
    write_json(run.path / "report.json", {**result.as_dict(), "seconds": seconds})
    run.events.write(event="compared", decision=result.verdict.decision)


def _with_documents(setting: ComparisonSetup) -> ComparisonSetup:
    """The setting with the recipe's documents, if a route reads them; their hash is an input."""
    recipe = setting.recipe
    if not any(ROUTES[name].reads_documents for name in recipe.compare.routes):
        if recipe.rag.documents:
            say("rag.documents are named, but no route in compare.routes reads them.")
        return setting
    documents = open_documents(recipe.rag)
    hashes = {**setting.dataset.hashes, "documents": documents.fingerprint()}
    return replace(setting, documents=documents, dataset=replace(setting.dataset, hashes=hashes))


def _audit_tokens(setting: ComparisonSetup) -> ComparisonSetup:
    """The setting with what the token audit found in the rows of the routes that train, before the
    first question. Raises AuditFailed."""
    recipe, dataset = setting.recipe, setting.dataset
    routes = [
        learns
        for name in recipe.compare.routes
        if name in TRAINED_ROUTES and (learns := ROUTES[name].training_rows)
    ]
    findings: dict[Finding, None] = dict.fromkeys(dataset.findings)
    for learns in routes:
        split = learns(setting)
        found = audit((*split.train, *split.validation), setting.tokenizer, recipe.train.max_length)
        for finding in found:
            if finding.severity == "error":
                raise AuditFailed(finding.summary, finding.fix)
        findings |= dict.fromkeys(found)
    return replace(setting, dataset=replace(dataset, findings=tuple(findings)))
