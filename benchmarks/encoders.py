"""What does tuning an encoder bring? Labels on BANKING77, passages on XQuAD English.

    python benchmarks/encoders.py labels [--ways linear fine_tuned ...]   about 15 minutes
    python benchmarks/encoders.py passages xquad.en.json                  about 10 minutes

Labels: the recipe `benchmarks/banking77.yaml` (its two CSV files are named there), all 3,080 test
questions. `linear` is logistic regression on the vectors of all-MiniLM-L6-v2, `fine_tuned` the
same model with a classification head, all weights trained.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from burnish.compare.classifier import classifier
from burnish.core.progress import Lines, listen, say
from burnish.core.recipe import Recipe, load_recipe
from burnish.core.records import Scores
from burnish.core.runs import Run
from burnish.core.stats import paired_test
from burnish.data.load import Dataset, load
from burnish.engines.open import open_any
from burnish.evaluate.run import Asked, evaluate
from burnish.evaluate.tasks import as_prompt
from burnish.train.once import trained

BANKING77 = Path(__file__).with_name("banking77.yaml")
#: Settings of the fine-tuned encoder; chosen beforehand, not by the test questions.
FINE_TUNED = (
    "model.name=all-minilm-l6-v2", "train.objective=classify", "train.method=full",
    "train.learning_rate=2e-4", "train.epochs=5", "train.checkpoint_every=500",
)  # fmt: skip


def linear(dataset: Dataset) -> Run:
    return classifier(load_recipe(BANKING77), dataset)


def fine_tuned(dataset: Dataset) -> Run:
    return trained(load_recipe(BANKING77, FINE_TUNED), dataset)


WAYS: dict[str, Callable[[Dataset], Run]] = {"linear": linear, "fine_tuned": fine_tuned}


def labels(ways: list[str]) -> dict[str, object]:
    """Each way's accuracy with its interval, seconds of training, and its gain over `linear`."""
    recipe = load_recipe(BANKING77)
    dataset = load(recipe)
    found: dict[str, Scores] = {}
    lines: dict[str, object] = {}
    for way in ways:
        begun = time.perf_counter()
        run = WAYS[way](dataset)
        seconds = time.perf_counter() - begun
        scores = found[way] = measured(run, recipe, dataset)
        lines[way] = {
            "run": run.id,
            "accuracy": [scores.interval.value, scores.interval.low, scores.interval.high],
            "seconds": run.read("report.json").get("train_seconds", seconds),
            "seconds_here": seconds,
        }
        say(json.dumps({way: lines[way]}))
    gains = {
        way: gain(scores, found["linear"])
        for way, scores in found.items()
        if way != "linear" and "linear" in found
    }
    return {"questions": len(dataset.split.test), "ways": lines, "gain_over_linear": gains}


def measured(run: Run, recipe: Recipe, dataset: Dataset) -> Scores:
    rows = dataset.split.test
    prompts = [as_prompt(row, dataset.task, 16) for row in rows]
    asked = Asked(rows, prompts, f"Asking {run.id}")
    return evaluate(open_any(run.artifact), asked, dataset.task, recipe.evaluate)


def gain(ours: Scores, theirs: Scores) -> dict[str, object]:
    test = paired_test(ours.values, theirs.values)
    return {
        "gain": [test.gain.value, test.gain.low, test.gain.high],
        "wins": test.wins,
        "losses": test.losses,
        "p_two_sided": test.p_two_sided,
    }


def print_labels(found: Mapping[str, object]) -> None:
    """A Markdown table: one line a way."""
    print("| way | accuracy (95 % interval) | seconds of training |\n| --- | --- | --- |")
    ways = found["ways"]
    assert isinstance(ways, Mapping)
    for way, line in ways.items():
        value, low, high = line["accuracy"]
        print(f"| {way} | {value:.1%} ({low:.1%} to {high:.1%}) | {line['seconds']:.0f} |")
    print(json.dumps(found["gain_over_linear"], indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parts = parser.add_subparsers(dest="part", required=True)
    ways = parts.add_parser("labels")
    ways.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    listen(Lines())
    result = labels(options.ways)
    print(json.dumps(result, indent=2)) if options.json else print_labels(result)


if __name__ == "__main__":
    main()
