"""What does tuning an encoder bring? Labels on BANKING77, passages on XQuAD English.

    python benchmarks/encoders.py labels [--ways linear fine_tuned ...]   about 15 minutes
    python benchmarks/encoders.py passages xquad.en.json                  about 10 minutes

Labels: the recipe `benchmarks/banking77.yaml` (its two CSV files are named there), all 3,080 test
questions. `linear` is logistic regression on the vectors of all-MiniLM-L6-v2, `fine_tuned` the
same model with a classification head, all weights trained. All choose checkpoints by the same
validation rows.

Passages: half of the articles' paragraphs and questions are trained on, the questions of the other
half have to find their paragraph among that half's, by vectors alone, before and after.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from burnish.compare.classifier import train_classifier
from burnish.core.progress import LineReporter, say, set_reporter
from burnish.core.recipe.recipe import Recipe, load_recipe, make_recipe
from burnish.core.records import Scores
from burnish.core.runs import Run
from burnish.core.stats import mean_interval, paired_test
from burnish.data.load import Dataset, load
from burnish.engines.registry import open_engine
from burnish.evaluate.scoring import PromptSet, evaluate
from burnish.evaluate.tasks import as_prompt
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model
from burnish.train.cached_run import train_cached
from burnish.train.run import train

BANKING77 = Path(__file__).with_name("banking77.yaml")
#: Settings of the fine-tuned encoder; chosen beforehand, not by the test questions.
FINE_TUNED = (
    "model.name=all-minilm-l6-v2", "train.objective=classify", "train.method=full",
    "train.learning_rate=3e-4", "train.epochs=4", "train.checkpoint_every=500",
)  # fmt: skip


def linear(dataset: Dataset) -> Run:
    return train_classifier(load_recipe(BANKING77), dataset)


def fine_tuned(dataset: Dataset) -> Run:
    return train_cached(load_recipe(BANKING77, FINE_TUNED), dataset)


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
    asked = PromptSet(rows, prompts, f"Asking {run.id}")
    return evaluate(open_engine(run.artifact), asked, dataset.task, recipe.evaluate)


def gain(ours: Scores, theirs: Scores) -> dict[str, object]:
    test = paired_test(ours.values, theirs.values)
    return {
        "gain": [test.gain.value, test.gain.low, test.gain.high],
        "wins": test.wins,
        "losses": test.losses,
        "p_two_sided": test.p_two_sided,
    }


#: Settings of the tuned embedding model; chosen beforehand, not by the test questions.
TUNED = (
    "model.name=all-minilm-l6-v2", "train.objective=embed", "train.method=full",
    "train.learning_rate=1e-4", "train.epochs=1", "train.batch_size=16",
    "train.micro_batch_tokens=8192", "train.max_length=256", "train.evaluate_every=34",
    "task.kind=generation", "data.test_share=0", "data.near_duplicate=1.0",
)  # fmt: skip


def passages(file: Path) -> dict[str, object]:
    """Recall@1 and MRR of the untrained half's questions, before and after, and the paired gain."""
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    random.Random(0).shuffle(articles)
    half = len(articles) // 2
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "pairs.jsonl"
        pairs = questions_of(articles[:half])
        lines = (json.dumps({"prompt": q, "completion": p}) + "\n" for q, p in pairs)
        rows.write_text("".join(lines), encoding="utf-8")
        report = train(make_recipe({"data": {"train": [str(rows)]}}, TUNED))
    test = questions_of(articles[half:])
    ranks = {name: ranked(name, test) for name in ("all-minilm-l6-v2", report.run)}
    before, after = ranks.values()
    found: dict[str, object] = {}
    for measure, value in (("recall@1", lambda r: float(r == 1)), ("MRR", lambda r: 1 / r)):
        ours, theirs = ([value(rank) for rank in side] for side in (after, before))
        test_of = paired_test(ours, theirs)
        found[measure] = {
            **{
                name: [(one := mean_interval(side)).value, one.low, one.high]
                for name, side in (("before", theirs), ("after", ours))
            },
            "gain": [test_of.gain.value, test_of.gain.low, test_of.gain.high],
            "p_two_sided": test_of.p_two_sided,
        }
    return {
        "trained on": len(pairs),
        "questions": len(test),
        "paragraphs": len({passage for _, passage in test}),
        "seconds": report.train_seconds,
        "measures": found,
    }


def questions_of(articles: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Questions with their paragraphs."""
    return [
        (entry["question"], paragraph["context"])
        for article in articles
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]


def ranked(name: str, pairs: list[tuple[str, str]]) -> list[int]:
    """For each question the rank of its paragraph, from 1."""
    embedder = Embedder(find_model(name))
    known = list(dict.fromkeys(passage for _, passage in pairs))
    scores = embedder.encode([question for question, _ in pairs]) @ embedder.encode(known).T
    own = [known.index(passage) for _, passage in pairs]
    return [int((row > row[place]).sum()) + 1 for row, place in zip(scores, own, strict=True)]


def print_passages(found: Mapping[str, Any]) -> None:
    """A Markdown table: one line a measure."""
    print("| measure | before | after | gain | p (two-sided) |\n| --- | --- | --- | --- | --- |")
    for name, line in found["measures"].items():
        cells = [
            f"{value:.3f} ({low:.3f} to {high:.3f})"
            for value, low, high in (line["before"], line["after"], line["gain"])
        ]
        print(f"| {name} | {' | '.join(cells)} | {line['p_two_sided']:.2g} |")
    print(f"\nTrained on {found['trained on']} questions in {found['seconds']:.0f} s")


def print_labels(found: Mapping[str, Any]) -> None:
    """A Markdown table: one line a way."""
    print("| way | accuracy (95 % interval) | seconds of training |\n| --- | --- | --- |")
    for way, line in found["ways"].items():
        value, low, high = line["accuracy"]
        print(f"| {way} | {value:.1%} ({low:.1%} to {high:.1%}) | {line['seconds']:.0f} |")
    print(json.dumps(found["gain_over_linear"], indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parts = parser.add_subparsers(dest="part", required=True)
    ways = parts.add_parser("labels")
    ways.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parts.add_parser("passages").add_argument("xquad", type=Path, help="xquad.en.json")
    options = parser.parse_args()
    set_reporter(LineReporter())
    is_labels = options.part == "labels"
    result = labels(options.ways) if is_labels else passages(options.xquad)
    show = print_labels if is_labels else print_passages
    print(json.dumps(result, indent=2)) if options.json else show(result)


if __name__ == "__main__":
    main()
