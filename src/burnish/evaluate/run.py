"""`burnish evaluate`: one model or run on the frozen test split of a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.atomic import write_json
from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Scores
from burnish.core.runs import Run, new_run
from burnish.data.load import load
from burnish.data.split import sample_rows
from burnish.engines.registry import engine_for
from burnish.evaluate.judge_calibration import calibrate_judge
from burnish.evaluate.latency import measure_latencies
from burnish.evaluate.preference_accuracy import evaluate_pairs
from burnish.evaluate.scoring import PromptSet, evaluate, perplexity, save_predictions, summary
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    refuse_unanswerable,
    with_instruction,
)
from burnish.models.artifact import Artifact
from burnish.models.find_artifact import find_artifact

#: Perplexity is measured on at most this many test rows.
_PERPLEXITY_ROWS = 100


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of one model on the test split, and the run folder with its predictions.

    `latencies` are seconds of single requests; `perplexity` is that of the expected answers, None
    for a model that generates no text.
    """

    run: Run
    source: str
    scores: Scores
    latencies: tuple[float, ...]
    perplexity: float | None
    notes: tuple[str, ...]
    judge: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish evaluate --json` prints."""
        return {
            "run": self.run.id,
            **summary(self.source, self.scores, self.latencies),
            "perplexity": self.perplexity,
            "judge": self.judge,
            "inferred": list(self.notes),
        }


def evaluate_source(
    recipe: Recipe, source: str | None = None, out: Path | None = None
) -> Evaluation:
    """Evaluate a run or a model (by default the recipe's base) on the recipe's test split.

    A base model is instructed as a competent person would do it (the labels, the keys); a run gets
    the prompts of its training. Raises BadData if there are no test rows, NotFound for an unknown
    source, BadRecipe for a judge that doesn't agree with people.
    """
    name = source or recipe.model.name
    artifact = find_artifact(name)
    recipe = recipe.model_copy(update={"task": resolve_task(recipe.task, artifact)})
    dataset = load(recipe)
    dataset.announce()
    task, settings = dataset.task, recipe.evaluate
    rows = sample_rows(dataset.split.test, settings.max_rows, settings.seed)
    refuse_unanswerable(rows)
    inputs = {"data": dict(dataset.hashes), "source": name}
    if artifact and artifact.kind == "reward":
        scores = evaluate_pairs(artifact, rows, settings)
        run = new_run("evaluate", recipe, inputs, out)
        latencies = tuple(prediction.seconds for prediction in scores.predictions)
        return _save(Evaluation(run, name, scores, latencies, None, tuple(dataset.notes)))
    judge = calibrate_judge(settings, [name])
    engine = engine_for(artifact, name)
    run = new_run("evaluate", recipe, inputs, out)

    reference_rows = dataset.split.train or rows
    length = answer_length(reference_rows, settings, engine.count_tokens)
    instruction = "" if artifact else TASKS[task.kind].instruction(task, reference_rows)
    reasoning_tokens = artifact.reasoning_tokens if artifact else 0
    prompts = [
        with_instruction(as_prompt(row, task, length, reasoning_tokens), instruction)
        for row in rows
    ]
    scores = evaluate(engine, PromptSet(rows, prompts, f"Asking {name}"), task, settings)
    if judge:
        scores = judge.grade(scores, rows, settings)
    result = Evaluation(
        run=run,
        source=name,
        scores=scores,
        latencies=tuple(measure_latencies(engine, prompts).seconds),
        perplexity=perplexity(engine, sample_rows(rows, _PERPLEXITY_ROWS, settings.seed)),
        notes=tuple(dataset.notes),
        judge=judge.as_dict() if judge else None,
    )
    return _save(result)


def _save(result: Evaluation) -> Evaluation:
    """Write the result into its run and return it."""
    run, scores = result.run, result.scores
    save_predictions(run.path / "predictions.jsonl", scores.predictions)
    write_json(run.path / "report.json", result.as_dict())
    run.events.write(event="evaluated", value=scores.interval.value)
    return result


def resolve_task(task: Task, artifact: Artifact | None) -> Task:
    """Fill in what the recipe leaves open from the artifact's training: kind, labels, system
    message."""
    if artifact is None:
        return task
    trained = Task(**artifact.lineage["task"]) if "task" in artifact.lineage else Task()
    kind = trained.kind if task.kind == "auto" else task.kind
    labels = task.labels or (trained.labels if kind == trained.kind else ())
    prompt = task.prompt or artifact.system
    return task.model_copy(update={"kind": kind, "labels": labels, "prompt": prompt})
