"""Adapters trained together against the same trained one after another: the ratio of their times.

    python benchmarks/together.py [--model smollm2-135m-instruct] [--adapters 3] [--words 12]

Every adapter has rows of its own, drawn by seed, and does `--steps` steps of `--batch` rows. The
time is that of the steps (no loading, no forecast), as the runs report it; each way is run
`--repeats` times in turn and the quickest of each counts.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

from burnish.core.recipe.recipe import Recipe, make_recipe
from burnish.train.multi_lora.run import train_together
from burnish.train.run import train

WORDS = ("parcel", "refund", "lamp", "account", "password", "login", "order", "late", "money")


def recipes(asked: argparse.Namespace, folder: Path) -> dict[str, Recipe]:
    """A recipe an adapter, its rows written."""
    found = {}
    for number in range(asked.adapters):
        draw, file = random.Random(number), folder / f"rows{number}.jsonl"
        rows = [
            {
                "prompt": " ".join(draw.choices(WORDS, k=asked.words)) + f" {place}",
                "completion": " ".join(draw.choices(WORDS, k=4)),
            }
            for place in range(asked.batch * asked.steps)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes = [
            f"train.batch_size={asked.batch}", "train.epochs=1", f"train.seed={number}",
            "data.validation_share=0", "data.test_share=0", "data.near_duplicate=1.0",
            "task.kind=generation", "train.checkpoint_every=100000",
        ]  # fmt: skip
        values = {"model": {"name": asked.model}, "data": {"train": [str(file)]}}
        found[f"adapter{number}"] = make_recipe(values, changes)
    return found


def seconds(asked: argparse.Namespace) -> dict[str, float]:
    """Seconds of the steps: one after another, and together."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        named = recipes(asked, folder)
        apart = [train(recipe, out=folder / name) for name, recipe in named.items()]
        joined = train_together(named, folder / "joined")
    return {
        "apart": sum(sum_of(report) for report in apart),
        # All end after the same step, and each counts the whole pass.
        "together": max(sum_of(report) for report in joined),
    }


def sum_of(report: object) -> float:
    """Seconds of a run's steps."""
    return float(report.train_seconds)  # type: ignore[attr-defined]


def main() -> None:
    """Print the quickest of each way and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    for name, usual in (
        ("adapters", 3),
        ("words", 12),
        ("batch", 4),
        ("steps", 10),
        ("repeats", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=usual)
    asked = parser.parse_args()
    found = [seconds(asked) for _ in range(asked.repeats)]
    best = {way: min(one[way] for one in found) for way in ("apart", "together")}
    print(json.dumps({**vars(asked), **best, "apart/together": best["apart"] / best["together"]}))


if __name__ == "__main__":
    main()
