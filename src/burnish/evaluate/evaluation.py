"""`burnish evaluate`: one model, or one run's artifact, on the frozen test split of a recipe."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.core.folders import write_json
from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.core.records import Scores
from burnish.core.runs import Run, new_run
from burnish.core.sections import Task
from burnish.data.load import load
from burnish.data.split import sample
from burnish.engines.local import find_artifact, open_engine
from burnish.evaluate.latency import latencies
from burnish.evaluate.run import Asked, evaluate, perplexity, save_predictions, summary
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    refuse_unanswerable,
    with_instruction,
)
from burnish.models.artifact import Artifact


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of one model. `perplexity` is that of the expected answers; None for labels."""

    run: Run
    source: str
    task: Task
    scores: Scores
    latencies: tuple[float, ...]
    perplexity: float | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish evaluate --json` prints."""
        return {
            "run": self.run.id,
            "source": self.source,
            "task": self.task.kind,
            **summary(self.source, self.scores, self.latencies),
            "perplexity": self.perplexity,
            "inferred": list(self.notes),
            "predictions": str(self.run.path / "predictions.jsonl"),
        }

    def as_text(self) -> str:
        """What a person reads on the terminal."""
        found, facts = self.scores.interval, self.as_dict()
        name = self.scores.metric.replace("_", " ")
        lines = [
            f"{self.source}: {found.value:.1%} {name} on {found.n} questions "
            f"({found.low:.1%} to {found.high:.1%})",
            *(
                f"  {key.replace('_', ' ')}: {value:.1%}"
                for key, value in self.scores.extra.items()
            ),
            f"  latency: {facts['latency_p50_s']:.2f} s (p95 {facts['latency_p95_s']:.2f} s)",
            f"  tokens: {facts['tokens_in']:.0f} in, {facts['tokens_out']:.1f} out",
        ]
        if self.perplexity is not None:
            lines.append(f"  perplexity of the expected answers: {self.perplexity:.2f}")
        return "\n".join([*lines, f"Predictions: {facts['predictions']}"])


def evaluate_run(recipe: Recipe, source: str | None = None, out: Path | None = None) -> Evaluation:
    """Measure a model (by name) or a run's artifact on the frozen test split of the recipe.

    `source` is the recipe's model if left out. A model that wasn't trained here is told what a
    competent person would tell it (the labels, the keys); an artifact is asked as it was trained.
    Raises NotFound, BadData, PromptTooLong.
    """
    source = source or recipe.model.name
    artifact = find_artifact(source)
    recipe = recipe.model_copy(update={"task": _task_of(recipe.task, artifact)})
    dataset = load(recipe)
    for note in dataset.notes:
        say(note)
    task, settings = dataset.task, recipe.evaluate
    rows = sample(dataset.split.test, settings.max_rows, settings.seed)
    refuse_unanswerable(rows)
    run = new_run("evaluate", recipe, {"data": dict(dataset.hashes), "source": source}, out)

    engine = open_engine(source)
    known = dataset.split.train or dataset.split.test
    length = answer_length(known, settings, engine.count_tokens)
    told = "" if artifact else TASKS[task.kind].instruction(task, known)
    prompts = [with_instruction(as_prompt(row, task, length), told) for row in rows]
    scores = evaluate(engine, Asked(rows, prompts, f"Asking {source}"), task, settings)
    result = Evaluation(
        run=run,
        source=source,
        task=task,
        scores=scores,
        latencies=tuple(latencies(engine, prompts)),
        perplexity=None if TASKS[task.kind].constrained else perplexity(engine, rows),
        notes=tuple(dataset.notes),
    )
    save_predictions(run.path / "predictions.jsonl", scores.predictions)
    write_json(run.path / "report.json", {**result.as_dict(), "interval": asdict(scores.interval)})
    run.events.write(event="evaluated", value=scores.interval.value)
    return result


def _task_of(task: Task, artifact: Artifact | None) -> Task:
    """What the recipe leaves open, as the artifact was trained: kind, labels, system message."""
    if artifact is None:
        return task
    trained = Task(**artifact.lineage["task"]) if "task" in artifact.lineage else Task()
    if task.kind == "auto":
        task = task.model_copy(update={"kind": trained.kind})
    if task.kind == trained.kind and not task.labels:
        task = task.model_copy(update={"labels": trained.labels})
    return task.model_copy(update={"prompt": task.prompt or artifact.system})
