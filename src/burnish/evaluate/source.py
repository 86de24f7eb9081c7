"""`burnish evaluate`: one model or run on the frozen test split of a recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.errors import BadData
from burnish.core.folders import write_json
from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.core.records import Scores
from burnish.core.runs import Run, new_run
from burnish.data.load import load
from burnish.engines.local import find_artifact, open_engine
from burnish.evaluate.run import Asked, evaluate, perplexity, save_predictions, summary
from burnish.evaluate.tasks import answer_length, as_prompt, with_form

#: Perplexity is measured on this many test rows at the most.
_PERPLEXITY_ROWS = 100


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of one model on the test split, and the run folder that holds its predictions."""

    run: Run
    source: str
    scores: Scores
    perplexity: float

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish evaluate --json` prints."""
        return {
            "run": self.run.id,
            **summary(self.source, self.scores),
            "perplexity": self.perplexity,
        }


def evaluate_source(
    recipe: Recipe, source: str | None = None, out: Path | None = None
) -> Evaluation:
    """Measure a run or a model (by default the recipe's base) on the recipe's test split.

    Raises BadData if there are no test rows, NotFound for an unknown source.
    """
    dataset = load(recipe)
    for note in dataset.notes:
        say(note)
    rows = dataset.split.test[: recipe.evaluate.max_rows]
    if not rows:
        raise BadData("There are no test rows.", "Name a test file, or raise data.test_share.")
    name = source or recipe.model.name
    trained = find_artifact(name) is not None
    length = answer_length(dataset.split.train, recipe.evaluate)
    prompts = [as_prompt(row, dataset.task, length) for row in rows]
    if not trained:
        prompts = [with_form(prompt, dataset.task, dataset.split.train) for prompt in prompts]
    engine = open_engine(name)
    scores = evaluate(engine, Asked(rows, prompts, f"Asking {name}"), dataset.task, recipe.evaluate)
    run = new_run("evaluate", recipe, {"data": dataset.hashes, "source": name}, out)
    save_predictions(run.path / "predictions.jsonl", scores.predictions)
    result = Evaluation(run, name, scores, perplexity(engine, rows[:_PERPLEXITY_ROWS]))
    write_json(run.path / "report.json", result.as_dict())
    return result
