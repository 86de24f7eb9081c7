"""Predictions, kept by the content of what was asked of whom: nothing is asked twice."""

from collections.abc import Callable
from dataclasses import asdict

from burnish.core.folders import hash_json
from burnish.core.progress import say
from burnish.core.records import Scores
from burnish.core.sections import Evaluate, Task
from burnish.core.settings import workspace
from burnish.engines.protocol import Engine
from burnish.evaluate.run import Asked, evaluate, load_predictions, save_predictions, score
from burnish.evaluate.tasks import deciding_metric


def measured(
    identity: str,
    engine: Callable[[], Engine],
    asked: Asked,
    task: Task,
    settings: Evaluate,
) -> Scores:
    """Scores of an engine whose weights are `identity` (a hash); asked only if it hasn't been."""
    metric = deciding_metric(task, settings)
    prompts = [asdict(prompt) for prompt in asked.prompts]
    expected = [(row.id, row.answer) for row in asked.rows]
    key = hash_json([identity, prompts, expected, metric])
    file = workspace() / "cache" / "predictions" / f"{key[:24]}.jsonl"
    if file.exists():
        say(f"{asked.label}: answers of an earlier run.")
        return score(load_predictions(file), metric, task, settings)
    scores = evaluate(engine(), asked, task, settings)
    save_predictions(file, scores.predictions)
    return scores
