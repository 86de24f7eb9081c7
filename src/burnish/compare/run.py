"""`burnish compare`, top to bottom: was fine-tuning worth it?"""

import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.compare.answers import measured
from burnish.compare.forgetting import Forgetting, general_scores, general_set, what_was_lost
from burnish.compare.page import contents_of
from burnish.compare.routes import ROUTES, Setting
from burnish.compare.training import trained
from burnish.compare.verdict import INCUMBENT, OURS, Verdict, against_incumbent, judge
from burnish.core.errors import BadData
from burnish.core.folders import hash_json, write_json
from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.core.records import Scores
from burnish.core.runs import Run, new_run
from burnish.core.stats import PairedTest
from burnish.data.load import Dataset, load
from burnish.engines.local import LocalEngine, open_engine
from burnish.evaluate.run import Asked, save_predictions, summary
from burnish.models.artifact import open_artifact
from burnish.models.audit import audit
from burnish.models.load import load_tokenizer
from burnish.models.local import find_model
from burnish.report.page import write_report


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result: verdict, every route's scores, and what was lost on the way."""

    run: Run
    dataset: Dataset
    recipe: Recipe
    verdict: Verdict
    routes: Mapping[str, Scores]
    tests: Mapping[str, PairedTest]
    memory: Mapping[str, int]
    forgetting: Forgetting | None

    @property
    def exit_code(self) -> int:
        """0 if some route beats the plain prompt by a gain that counts, else 1."""
        settings = self.recipe.compare
        better = any(
            test.p_value < settings.alpha and test.gain.value >= settings.least_gain
            for test in self.tests.values()
        )
        return 0 if self.verdict.decision == "ship" or better else 1

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish compare --json` prints."""
        verdict = asdict(self.verdict)
        routes = [
            {
                **summary(name, scores),
                "p_value": self.tests[name].p_value if name in self.tests else None,
                "gain": asdict(self.tests[name].gain) if name in self.tests else None,
                "memory_bytes": self.memory[name],
                "cost_per_1000": self.cost(name),
            }
            for name, scores in self.routes.items()
        ]
        return {
            "run": self.run.id,
            "verdict": verdict,
            "routes": routes,
            "forgetting": asdict(self.forgetting) if self.forgetting else None,
            "task": self.dataset.task.kind,
            "notes": list(self.dataset.notes),
            "report": str(self.run.path / "report.html"),
        }

    def cost(self, name: str) -> float:
        """Price of 1,000 requests: the machine's hour, shared by the answers it gives in one."""
        predictions = self.routes[name].predictions
        seconds = sum(item.seconds for item in predictions) / max(len(predictions), 1)
        return seconds * 1000 / 3600 * self.recipe.compare.price_per_hour

    def as_text(self) -> str:
        """What a person reads on the terminal."""
        lines = []
        for name, scores in self.routes.items():
            found = scores.interval
            spread = f"{found.value:7.1%}  ({found.low:.1%} to {found.high:.1%})"
            p_value = f"p = {self.tests[name].p_value:.2g}" if name in self.tests else "incumbent"
            facts = summary(name, scores)
            lines.append(
                f"  {name:<11} {spread:<26} {p_value:<14} "
                f"{facts['latency_p50_s'] * 1000:5.0f} ms {facts['tokens_in']:6.0f} tokens in"
            )
        metric = next(iter(self.routes.values()))
        heads = f"  {'route':<11} {metric.metric} on {metric.interval.n} questions (95% interval)"
        parts = [f"{self.verdict.headline} {self.verdict.reason}", "\n".join([heads, *lines])]
        if self.forgetting:
            parts.append(self.forgetting.words)
        parts.append(f"Report: {self.run.path / 'report.html'}\nTry it: burnish chat {self.run.id}")
        return "\n\n".join(parts)


def compare(recipe: Recipe, out: Path | None = None) -> Comparison:
    """Measure every route of the recipe on the same frozen test split and give a verdict.

    Raises BadData before anything is measured if the data has errors or fails the token audit.
    A comparison that was interrupted finds its answers and its training again.
    """
    begun = time.time()
    dataset = load(recipe)
    for note in dataset.notes:
        say(note)
    if not dataset.split.test:
        raise BadData("There are no test rows.", "Name a test file, or raise data.test_share.")
    base = find_model(recipe.model.name)
    _audited(dataset, recipe)
    inputs = {"data": dataset.hashes, "base": {"name": base.name, "sha256": base.sha256}}
    run = new_run("compare", recipe, inputs, out)

    setting = Setting(recipe, dataset, dataset.split.test[: recipe.evaluate.max_rows])
    models = _Models(setting, run)
    routes: dict[str, Scores] = {name: models.measure(name) for name in recipe.compare.routes}
    forgetting = models.forgetting() if recipe.compare.forgetting and OURS in routes else None
    for name, scores in routes.items():
        save_predictions(run.path / f"predictions-{name}.jsonl", scores.predictions)

    result = Comparison(
        run=run,
        dataset=dataset,
        recipe=recipe,
        verdict=judge(routes, recipe.compare),
        routes=routes,
        tests=against_incumbent(routes, recipe.compare, recipe.evaluate.confidence),
        memory=models.memory,
        forgetting=forgetting,
    )
    write_json(run.path / "report.json", {**result.as_dict(), "seconds": time.time() - begun})
    command = shlex.join(["burnish", *sys.argv[1:]]) if sys.argv[0].endswith("burnish") else ""
    training = models.training
    write_report(contents_of(result.as_dict(), routes, dataset, training, command),
                 run.path / "report.html")  # fmt: skip
    run.events.write(event="compared", decision=result.verdict.decision)
    return result


class _Models:
    """The models of one comparison, loaded when they are needed and one at a time."""

    def __init__(self, setting: Setting, run: Run) -> None:
        self.setting, self.run = setting, run
        self.memory: dict[str, int] = {}
        self.training: Run | None = None
        self.loaded: tuple[str, LocalEngine] | None = None

    def measure(self, name: str) -> Scores:
        """The scores of one route."""
        source = self._source(name)
        engine = self._engine(source)
        self.memory[name] = engine.memory_bytes
        prompts = ROUTES[name](self.setting, engine)
        asked = Asked(self.setting.rows, prompts, f"Asking {name}")
        recipe = self.setting.recipe
        return measured(
            self._identity(source), lambda: engine, asked, self.setting.dataset.task,
            recipe.evaluate,
        )  # fmt: skip

    def forgetting(self) -> Forgetting:
        """The general set, before and after."""
        questions = general_set()
        say("Asking general questions, before and after")
        after = general_scores(self._engine(self._source(OURS)), questions)
        before = general_scores(self._engine(self._source(INCUMBENT)), questions)
        return what_was_lost(before, after, questions)

    def _source(self, name: str) -> str:
        """The model that a route asks: the base, or what was trained for this comparison."""
        if name != OURS:
            return self.setting.recipe.model.name
        if self.training is None:
            self.loaded = None
            self.training = trained(self.setting.recipe, self.setting.dataset)
            if not self.run.artifact.exists():
                shutil.copytree(self.training.artifact, self.run.artifact)
        return str(self.training.artifact)

    def _engine(self, source: str) -> LocalEngine:
        if self.loaded is None or self.loaded[0] != source:
            self.loaded = None
            self.loaded = (source, open_engine(source))
        return self.loaded[1]

    def _identity(self, source: str) -> str:
        if self.training and source == str(self.training.artifact):
            return hash_json(open_artifact(self.training.artifact).lineage["files"])
        return find_model(source).sha256


def _audited(dataset: Dataset, recipe: Recipe) -> None:
    """The token audit of all rows, before the first question. Raises BadData."""
    from burnish.core.errors import AuditFailed

    tokenizer = load_tokenizer(find_model(recipe.model.name))
    rows = (*dataset.split.train, *dataset.split.validation)
    for finding in audit(rows, tokenizer, recipe.train.max_length):
        shown = ", ".join(str(row) for row in finding.rows[:5])
        raise AuditFailed(f"{finding.file}, rows {shown}: {finding.message}", finding.fix)
