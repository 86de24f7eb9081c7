"""Rows that begin alike, learnt in one step or as they are drawn: time, peak memory, and quality.

    python benchmarks/grouping.py xquad.en.json --steps 30 --questions 100

Questions of XQuAD (Artetxe et al. 2020, CC BY-SA 4.0), five behind each paragraph, which is in the
prompt. Those of every fourth article are asked. Both ways learn the same number of rows with the
same settings but for `train.group_by_prefix`, each in a process and a workspace of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from grounding import pairs_of, read_squad

WAYS = {"as drawn": "false", "grouped": "true"}


def write_rows(file: Path, articles: list[list[dict[str, Any]]]) -> None:
    """Each question behind its paragraph."""
    rows = [
        {"prompt": f"{paragraph['context']}\n\n{question}", "completion": answer}
        for article in articles
        for paragraph in article
        for question, answer in pairs_of(paragraph)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def one(asked: argparse.Namespace) -> dict[str, Any]:
    """Train and measure in this process."""
    from burnish import api

    articles = read_squad(asked.xquad)
    with tempfile.TemporaryDirectory() as folder:
        train, test = Path(folder) / "train.jsonl", Path(folder) / "test.jsonl"
        write_rows(train, [article for place, article in enumerate(articles) if place % 4])
        write_rows(test, articles[::4])
        changes = [
            "task.kind=qa", "train.batch_size=20", f"train.max_steps={asked.steps}",
            f"train.seed={asked.seed}", "train.patience=0", "data.validation_share=0",
            f"data.test={test}", f"evaluate.max_rows={asked.questions}",
            f"train.group_by_prefix={WAYS[asked.way]}",
        ]  # fmt: skip
        wishes: Any = {"train": [train], "model": asked.model, "changes": changes}
        report = api.train(**wishes)
        found = api.evaluate(source=report.run, **wishes)
    return {
        "way": asked.way,
        "seconds_a_step": report.train_seconds / report.steps,
        "peak_memory_bytes": report.peak_memory_bytes,
        "score": found.as_dict(),
    }


def in_child(way: str, arguments: list[str]) -> dict[str, Any]:
    """One way in a process and a workspace of its own."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, __file__, *arguments, "--way", way],
            stdout=subprocess.PIPE, env={**os.environ, "BURNISH_HOME": home}, check=True,
        )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return found


def main() -> None:
    """A line for each way, and how much faster one is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("xquad", type=Path, help="xquad.en.json or another language")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    for name, usual in (("steps", 30), ("questions", 100), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--way", choices=WAYS, help="this one only, in this process")
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(one(asked)))
        return
    found = {way: in_child(way, sys.argv[1:]) for way in WAYS}
    for way, cell in found.items():
        score, (low, high) = cell["score"]["value"], cell["score"]["ci"]
        print(
            f"{way:9} {cell['seconds_a_step']:6.2f} s a step  "
            f"{cell['peak_memory_bytes'] / 1e9:.2f} GB  F1 {score:.3f} ({low:.3f} to {high:.3f})"
        )
    times = [cell["seconds_a_step"] for cell in found.values()]
    print(f"{times[0] / times[1]:.2f} times as fast")


if __name__ == "__main__":
    main()
