"""How near does the forecast come? Short runs over a grid of settings, each in its own process.

    python benchmarks/forecast_grid.py --json

Every run trains the starter model for a few steps on the example project's tickets (short rows) or
answers (long ones), with each method and two sizes of micro-batches. Printed is what was forecast,
what happened, and how many of the peaks came within 10 % and within the stated interval. Time is
shown but proves little: it is the machine's mood as much as the forecast's merit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

DESK = Path(__file__).parents[1] / "examples" / "support-desk"
ROWS = {"tickets": DESK / "triage.csv", "answers": DESK / "replies.jsonl"}
METHODS = (
    "{kind: lora, rank: 8}", "{kind: lora, rank: 64}", "dora", "qlora", "ia3", "full",
)  # fmt: skip
MICRO_BATCHES = (512, 2048)


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train in this process; the forecast's quantities with their actual values, by name."""
    from burnish import api

    rows = ROWS[arguments.rows]
    columns = ["data.columns={prompt: text, label: queue}"] if rows.suffix == ".csv" else []
    report = api.train(
        train=[rows],
        model="smollm2-135m-instruct",
        changes=[
            *columns, f"train.method={arguments.method}", f"train.max_steps={arguments.steps}",
            f"train.micro_batch_tokens={arguments.micro}", "train.batch_size=16",
            "train.learning_rate=1e-4", f"train.threads={arguments.threads}",
        ],
    )  # fmt: skip
    return {quantity["name"]: quantity for quantity in report.forecast}


def in_child(rows: str, method: str, micro: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One cell of the grid in a process and a workspace of its own."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [
                sys.executable, __file__, "--rows", rows, "--method", method, "--micro", str(micro),
                "--steps", str(arguments.steps), "--threads", str(arguments.threads),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
            env={**os.environ, "BURNISH_HOME": home},
        )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    memory, spent = found["peak memory"], found["training time"]
    ratio = memory["actual"] / memory["expected"]
    held = memory["low"] <= memory["actual"] <= memory["high"]
    print(
        f"{rows:8} {method:24} {micro:5} tokens  {memory['expected'] / 1e9:5.2f} GB forecast "
        f"{memory['actual'] / 1e9:5.2f} GB used  x{ratio:.3f} {'' if held else 'OUTSIDE'}"
        f"   time x{spent['actual'] / spent['expected']:.2f}",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return {"rows": rows, "method": method, "micro": micro, "memory": ratio, "held": held}


def main() -> None:
    """The grid, or with --rows one cell of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--rows", choices=sorted(ROWS), help="this cell only")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--micro", type=int, default=2048)
    arguments = parser.parse_args()
    if arguments.rows:
        print(json.dumps(one(arguments)))
        return
    cells = [in_child(*cell, arguments) for cell in product(ROWS, METHODS, MICRO_BATCHES)]
    within = sum(abs(cell["memory"] - 1) <= 0.1 for cell in cells)
    held = sum(cell["held"] for cell in cells)
    print(f"{within} of {len(cells)} peaks within 10 %, {held} within the interval.")
    if arguments.as_json:
        print(json.dumps({"cells": cells, "within_10_percent": within, "in_interval": held}))


if __name__ == "__main__":
    main()
