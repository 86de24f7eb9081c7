"""What GRPO adds to a fine-tuned starter model, beside as long a time of more fine-tuning.

    python benchmarks/reinforcement.py --task extraction
    python benchmarks/reinforcement.py --task generation --words 25 --turns 15 --questions 60

The starter model learns the example project's rows for a few steps with `sft`. From there one copy
goes on with `sft`, another with `grpo`; each keeps its best checkpoint by the validation rows. All
three answer the held-back questions. The reward is the task's own metric; or, with `--words`, a
rule that no row tells: an answer has at least five words and at most so many.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from methods import TASKS, rows_of, shown

RULE = """def reward(answer, row, words):
    return float(5 <= len(answer.split()) <= words)
"""


@dataclass(frozen=True)
class Bench:
    """One workspace with its rows."""

    home: Path
    given: argparse.Namespace
    seed: int

    def measured(self, *changes: str) -> dict[str, Any]:
        """Train, and ask what was trained."""
        from burnish import api

        always = [
            f"task.kind={self.given.task}", f"train.seed={self.seed}", "train.batch_size=8",
            "train.epochs=50", "train.patience=0", "data.test_share=0.3",
            f"evaluate.max_rows={self.given.questions}",
        ]  # fmt: skip
        wishes: Any = {
            "train": [self.home / "rows.jsonl"],
            "model": "smollm2-135m-instruct",
            "changes": [*always, *changes],
        }
        report = api.train(**wishes)
        found = api.evaluate(source=report.run, **wishes)
        said = (found.run.path / "predictions.jsonl").read_text().splitlines()
        lengths = [len(json.loads(line)["answer"].split()) for line in said]
        cell = {
            "run": report.run,
            "steps": report.steps,
            "minutes": report.train_seconds / 60,
            "score": found.as_dict(),
            "words": fmean(lengths),
            "short": fmean(5 <= length <= self.given.words for length in lengths),
        }
        print(json.dumps(cell), file=sys.stderr, flush=True)
        return cell

    def all_three(self) -> dict[str, dict[str, Any]]:
        """The beginning, and what went on from it."""
        given = self.given
        lines = (json.dumps(row) + "\n" for row in rows_of(given.task))
        (self.home / "rows.jsonl").write_text("".join(lines))
        reward = "{kind: metric, metric: auto}"
        if given.words:
            (self.home / "rule.py").write_text(RULE)
            settings = f"settings: {{words: {given.words}}}"
            reward = f"{{kind: file, file: {self.home / 'rule.py'}, {settings}}}"
        sft = ["train.learning_rate=1e-3"]
        begun = self.measured(*sft, "train.method=lora", f"train.max_steps={given.steps}")
        goes_on = f"train.method={{kind: lora, start: {begun['run']}}}"
        grpo = [
            f"train.objective={{kind: grpo, answers: 8, reward: {reward}}}",
            f"train.learning_rate={given.rate}",
        ]
        return {
            "begun": begun,
            "sft": self.measured(goes_on, *sft, f"train.max_steps={given.again}"),
            "grpo": self.measured(goes_on, *grpo, f"train.max_steps={given.turns}"),
        }


def main() -> None:
    """A line for each of the three and each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="extraction")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40, help="of the beginning")
    parser.add_argument("--again", type=int, default=80, help="of more fine-tuning")
    parser.add_argument("--turns", type=int, default=30, help="of GRPO")
    parser.add_argument("--rate", type=float, default=1e-4, help="GRPO's learning rate")
    parser.add_argument("--words", type=int, default=0, help="reward answers of at most so many")
    parser.add_argument("--questions", type=int, default=1000)
    given = parser.parse_args()
    print("| seed | run | steps | minutes | score | words | by the rule |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as home:
            os.environ["BURNISH_HOME"] = home
            found = Bench(Path(home), given, seed).all_three()
        for name, cell in found.items():
            facts = f"{cell['minutes']:.1f} | {shown(cell['score'])} | {cell['words']:.0f}"
            print(f"| {seed} | {name} | {cell['steps']} | {facts} | {cell['short']:.2f} |")


if __name__ == "__main__":
    main()
