"""`burnish compare`, top to bottom: was fine-tuning worth it?"""

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from burnish.compare.answers import measured, timed
from burnish.compare.forgetting import Forgetting, general_set, what_was_lost
from burnish.compare.page import contents_of
from burnish.compare.routes import ROUTES, Setting
from burnish.compare.training import trained
from burnish.compare.verdict import OURS, Verdict, against_incumbent, judge
from burnish.core.errors import AuditFailed
from burnish.core.folders import hash_json, whole_folder, write_json
from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.core.records import Finding, Scores
from burnish.core.runs import Run, new_run
from burnish.core.sections import Evaluate, Task
from burnish.core.stats import PairedTest
from burnish.data.load import Dataset, load
from burnish.data.split import sample
from burnish.engines.local import LocalEngine, open_engine
from burnish.evaluate.run import Asked, save_predictions, summary
from burnish.evaluate.tasks import refuse_unanswerable
from burnish.models.artifact import open_artifact
from burnish.models.audit import audit
from burnish.models.load import load_tokenizer
from burnish.models.local import find_model
from burnish.report.page import write_report


@dataclass(frozen=True, slots=True)
class Measured:
    """One route as it was measured; seconds of single requests, bytes of its weights."""

    scores: Scores
    latencies: Sequence[float]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result: verdict, every route's scores, and what was lost on the way."""

    run: Run
    dataset: Dataset
    recipe: Recipe
    verdict: Verdict
    routes: Mapping[str, Measured]
    tests: Mapping[str, PairedTest]
    forgetting: Forgetting | None
    training: str | None

    @property
    def exit_code(self) -> int:
        """0 if the fine-tune should ship, else 1."""
        return 0 if self.verdict.decision == "ship" else 1

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish compare --json` prints."""
        split, task = self.dataset.split, self.dataset.task
        return {
            "run": self.run.id,
            "verdict": asdict(self.verdict),
            "routes": [self._route(name) for name in self.routes],
            "forgetting": asdict(self.forgetting) if self.forgetting else None,
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
            "training": self.training,
            "report": str(self.run.path / "report.html"),
        }

    def _route(self, name: str) -> dict[str, Any]:
        """A request's price is the machine's hour, shared by the answers that it gives in one."""
        route, test = self.routes[name], self.tests.get(name)
        facts = summary(name, route.scores, route.latencies)
        price = self.recipe.compare.price_per_hour
        return {
            **facts,
            "p_value": test.p_value if test else None,
            "gain": asdict(test.gain) if test else None,
            "memory_bytes": route.memory_bytes,
            "cost_per_1000": facts["seconds_in_batch"] * 1000 / 3600 * price,
        }

    def as_text(self) -> str:
        """What a person reads on the terminal."""
        lines = []
        for name in self.routes:
            route = self._route(name)
            low, high = route["ci"]
            spread = f"{route['value']:7.1%}  ({low:.1%} to {high:.1%})"
            p_value = "" if route["p_value"] is None else f"p = {route['p_value']:.2g}"
            lines.append(
                f"  {name:<11} {spread:<26} {p_value:<12} {route['latency_p50_s'] * 1000:6.0f} ms "
                f"{route['tokens_in']:6.0f} tokens in"
            )
        first = next(iter(self.routes.values())).scores
        level = f"{self.recipe.evaluate.confidence:.0%}"
        heads = f"  {'route':<11} {first.metric} on {first.interval.n} questions ({level} interval)"
        parts = [f"{self.verdict.headline} {self.verdict.reason}", "\n".join([heads, *lines])]
        if self.forgetting:
            parts.append(self.forgetting.words)
        hint = f"\nTry it: burnish chat {self.run.id}" if self.training else ""
        parts.append(f"Report: {self.run.path / 'report.html'}{hint}")
        return "\n\n".join(parts)


def compare(recipe: Recipe, out: Path | None = None) -> Comparison:
    """Measure every route of the recipe on the same frozen test split and give a verdict.

    Raises BadData before anything is measured if the data has errors or fails the token audit.
    Interrupted, it finds its answers and its training again when the same command is repeated.
    """
    begun = time.time()
    dataset = load(recipe)
    for note in dataset.notes:
        say(note)
    recipe = recipe.model_copy(update={"task": dataset.task})
    rows = sample(dataset.split.test, recipe.evaluate.max_rows, recipe.evaluate.seed)
    refuse_unanswerable(rows)
    dataset = replace(dataset, findings=(*dataset.findings, *_audited(dataset, recipe)))
    run = _run_of(recipe, dataset, out)

    models = _Models(Setting(recipe, dataset, rows), run)
    routes: dict[str, Measured] = {name: models.measure(name) for name in recipe.compare.routes}
    scores = {name: route.scores for name, route in routes.items()}
    forgetting = models.forgetting() if recipe.compare.forgetting and OURS in routes else None
    for name, found in scores.items():
        save_predictions(run.path / f"predictions-{name}.jsonl", found.predictions)

    result = Comparison(
        run=run,
        dataset=dataset,
        recipe=recipe,
        verdict=judge(scores, recipe.compare),
        routes=routes,
        tests=against_incumbent(scores, recipe.compare, recipe.evaluate.confidence),
        forgetting=forgetting,
        training=models.training.id if models.training else None,
    )
    again = shlex.join(["burnish", "compare", str(run.path / "recipe.yaml")])
    contents = contents_of(result.as_dict(), scores, dataset, models.training, again)
    write_report(contents, run.path / "report.html")
    write_json(run.path / "report.json", {**result.as_dict(), "seconds": time.time() - begun})
    run.events.write(event="compared", decision=result.verdict.decision)
    return result


class _Models:
    """The models of one comparison, loaded when they are needed and one at a time."""

    def __init__(self, setting: Setting, run: Run) -> None:
        self.setting, self.run = setting, run
        self.training: Run | None = None
        self.loaded: tuple[str, LocalEngine] | None = None

    def measure(self, name: str) -> Measured:
        """One route on the test rows."""
        source = self._source(ROUTES[name].trained)
        engine, identity = self._engine(source), self._identity(source)
        prompts = ROUTES[name].prompts(self.setting, engine)
        asked = Asked(self.setting.rows, prompts, f"Asking {name}")
        task, settings = self.setting.dataset.task, self.setting.recipe.evaluate
        scores = measured(identity, engine, asked, task, settings)
        seconds = timed(identity, engine, prompts)
        self.run.events.write(event="measured", route=name, value=scores.interval.value)
        return Measured(scores, seconds, engine.memory_bytes)

    def forgetting(self) -> Forgetting:
        """The general set, before and after."""
        return what_was_lost(self._general("base", False), self._general("fine_tuned", True))

    def _general(self, name: str, is_trained: bool) -> Scores:
        source = self._source(is_trained)
        asked = replace(general_set(), label=f"General questions, {name}")
        task = Task(kind="classification")
        settings = Evaluate(confidence=self.setting.recipe.evaluate.confidence)
        return measured(self._identity(source), self._engine(source), asked, task, settings)

    def _source(self, is_trained: bool) -> str:
        """The base model's name, or the folder of what was trained for this comparison."""
        if not is_trained:
            return self.setting.recipe.model.name
        if self.training is None:
            self.loaded = None
            self.training = trained(self.setting.recipe, self.setting.dataset)
            if not self.run.artifact.exists():
                with whole_folder(self.run.artifact) as draft:
                    shutil.copytree(self.training.artifact, draft, dirs_exist_ok=True)
        return str(self.training.artifact)

    def _engine(self, source: str) -> LocalEngine:
        if self.loaded is None or self.loaded[0] != source:
            self.loaded = None
            self.loaded = (source, open_engine(source))
        return self.loaded[1]

    def _identity(self, source: str) -> str:
        """A hash of the weights that answer."""
        if self.training and source == str(self.training.artifact):
            lineage = open_artifact(self.training.artifact).lineage
            return hash_json([lineage["base"]["sha256"], lineage["files"]])
        return find_model(source).sha256


def _run_of(recipe: Recipe, dataset: Dataset, out: Path | None) -> Run:
    """A new run folder; or the one named by `out`, if the same comparison was interrupted there."""
    if out and (out / "inputs.json").exists() and not (out / "report.json").exists():
        run = Run(out.absolute())
        if run.recipe == recipe:
            say(f"Going on with {run.id}")
            return run
    base = find_model(recipe.model.name)
    inputs = {
        "data": dict(dataset.hashes),
        "base": {"name": base.name, "sha256": base.sha256},
    }
    return new_run("compare", recipe, inputs, out)


def _audited(dataset: Dataset, recipe: Recipe) -> list[Finding]:
    """What the token audit of all rows found, before the first question. Raises AuditFailed."""
    if OURS not in recipe.compare.routes:
        return []
    tokenizer = load_tokenizer(find_model(recipe.model.name))
    rows = (*dataset.split.train, *dataset.split.validation)
    findings = audit(rows, tokenizer, recipe.train.max_length)
    for finding in findings:
        if finding.severity == "error":
            shown = ", ".join(str(row) for row in finding.rows[:5])
            raise AuditFailed(f"{finding.file}, rows {shown}: {finding.message}", finding.fix)
    return findings
