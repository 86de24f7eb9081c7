"""Every method on four tasks: quality, trained parameters, peak memory; and seconds a step.

    python benchmarks/methods.py --kept cells.jsonl          quality and memory, a run each
    python benchmarks/methods.py --speed [--methods qlora]   seconds a step, beside LoRA's

The starter model learns the example project's tickets for the same number of steps with each
method, each run in a process of its own: tickets to queues, tickets to JSON, questions on a passage
of the handbook, tickets to whole answers. A cell that stands in the file of `--kept` isn't measured
again, so the table can be made in parts; at the end it is printed as Markdown. `--speed` trains the
same ten steps in turns, three times over, and compares the medians: it wants a quiet machine, the
other table doesn't mind.
"""

import argparse
import csv
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

DESK = Path(__file__).parents[1] / "examples" / "support-desk"

#: `train.method` → its learning rate: few numbers want large steps.
METHODS = {
    "lora": 1e-3, "{kind: lora, init: pissa}": 2e-4, "dora": 1e-3, "qlora": 1e-3, "ia3": 2e-2,
    "bottleneck": 2e-3, "prompt": 1e-1, "prefix": 2e-2, "full": 1e-4,
}  # fmt: skip
TASKS = ("classification", "extraction", "qa", "generation")


def rows_of(task: str) -> list[dict[str, str]]:
    """The example project's rows as prompt and completion."""
    if task == "classification":
        table = csv.DictReader((DESK / "triage.csv").open(encoding="utf-8"))
        return [{"prompt": row["text"], "completion": row["queue"]} for row in table]
    if task == "qa":
        return list(_questions())
    replies = (DESK / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, str]] = [json.loads(line) for line in replies]
    if task == "extraction":
        for row in rows:
            queue, when = re.findall(r"^\[(\w+) \| (\w+)\]", row["completion"])[0]
            row["completion"] = json.dumps({"queue": queue, "when": when})
    return rows


def _questions() -> Any:
    """Questions whose answer stands word for word in a paragraph of its page, behind it."""
    with (DESK / "questions.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            page = (DESK / "handbook" / row["page"]).read_text(encoding="utf-8")
            for paragraph in page.split("\n\n"):
                if row["answer"].lower() in paragraph.lower():
                    prompt = f"{paragraph.strip()}\n\n{row['question']}"
                    yield {"prompt": prompt, "completion": row["answer"]}
                    break


def one(task: str, method: str, steps: int, questions: int) -> dict[str, Any]:
    """Train and measure in this process."""
    from burnish import api

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
        changes = [
            f"task.kind={task}", f"train.method={method}", f"train.learning_rate={METHODS[method]}",
            f"train.max_steps={steps}", "train.epochs=50", "train.batch_size=8",
            "train.patience=0", f"evaluate.max_rows={max(questions, 1)}", "data.test_share=0.3",
        ]  # fmt: skip
        wishes: Any = {"train": [file], "model": "smollm2-135m-instruct", "changes": changes}
        report = api.train(**wishes)
        found = api.evaluate(source=report.run, **wishes) if questions else None
    return {
        "task": task,
        "method": method,
        "learning_rate": METHODS[method],
        "trained_parameters": report.trained_parameters,
        "peak_memory_bytes": report.peak_memory_bytes,
        "seconds_a_step": report.train_seconds / report.steps,
        "score": found.as_dict() if found else None,
    }


def in_child(task: str, method: str, steps: int, questions: int) -> dict[str, Any]:
    """One cell in a process and a workspace of its own."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [
                sys.executable, __file__, "--task", task, "--method", method,
                "--steps", str(steps), "--questions", str(questions),
            ],
            capture_output=True, env={**os.environ, "BURNISH_HOME": home},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    found: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return found


def table(cells: list[dict[str, Any]]) -> str:
    """Scores by method and task, with what is trained and the most memory of the four."""
    head = ["method", *TASKS, "trained", "peak memory"]
    lines = [head, ["---"] * len(head)]
    for method in METHODS:
        own = {cell["task"]: cell for cell in cells if cell["method"] == method}
        scores = [shown(own[task]["score"]) if task in own else "" for task in TASKS]
        if own:
            trained = max(cell["trained_parameters"] for cell in own.values())
            memory = max(cell["peak_memory_bytes"] for cell in own.values())
            lines.append([f"`{method}`", *scores, f"{trained:,}", f"{memory / 1e9:.1f} GB"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(score: dict[str, Any]) -> str:
    """A score with its interval."""
    low, high = score["ci"]
    return f"{score['value']:.2f} ({low:.2f} to {high:.2f})"


def speed(steps: int, methods: list[str]) -> dict[str, float]:
    """Seconds a step over LoRA's, medians of three turns."""
    seen: dict[str, list[float]] = {method: [] for method in dict.fromkeys(["lora", *methods])}
    for _ in range(3):
        for method, seconds in seen.items():
            seconds.append(in_child("generation", method, steps, 0)["seconds_a_step"])
            print(f"{method:28} {seconds[-1]:.3f} s a step", file=sys.stderr, flush=True)
    return {method: median(some) / median(seen["lora"]) for method, some in seen.items()}


def main() -> None:
    """The table, its speeds, or with --task one cell of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--kept", type=Path, default=Path("methods.jsonl"))
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--task", choices=TASKS, help="this cell only")
    parser.add_argument("--method", choices=METHODS, default="lora")
    arguments = parser.parse_args()
    if arguments.task:
        cell = one(arguments.task, arguments.method, arguments.steps, arguments.questions)
        print(json.dumps(cell))
    elif arguments.speed:
        print(json.dumps(speed(10, arguments.methods)))
    else:
        lines = arguments.kept.read_text().splitlines() if arguments.kept.exists() else []
        cells = [json.loads(line) for line in lines]
        known = {(cell["task"], cell["method"]) for cell in cells}
        for task, method in itertools.product(TASKS, arguments.methods):
            if (task, method) in known:
                continue
            cells.append(in_child(task, method, arguments.steps, arguments.questions))
            print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
            with arguments.kept.open("a") as file:
                file.write(json.dumps(cells[-1]) + "\n")
        print(table(cells))


if __name__ == "__main__":
    main()
