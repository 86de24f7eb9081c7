"""What several processes need here: reckoned from the shape, rehearsed, and measured.

    python benchmarks/parallel_memory.py MODEL --method full

Each way trains two steps with all weights in float32. Measured are the peaks of the processes: of
the one that leads, up to the artifact, of the others, and of all. The rehearsal is the forecast of
`burnish train`, the reckoning that of `burnish forecast`, which knows nothing of what the leader
gathers in main memory for a checkpoint.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

DESK = Path(__file__).parents[1] / "examples" / "support-desk"
HEADS = (
    "method", "`parallel`", "processes", "reckoned", "others: measured", "leader: forecast",
    "leader: measured", "all: forecast", "all: measured",
)  # fmt: skip


def measured(model: str, method: str, parallel: str, count: int) -> str:
    """Train two steps in a process of its own, and say what it says."""
    words = [sys.executable, __file__, model, "--method", method]
    words += ["--way", parallel, "--count", str(count)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.strip()


def train(model: str, method: str, parallel: str, count: int) -> None:
    """Print what is reckoned, forecast and measured of one run, as a line of a table."""
    from burnish.api import resolve
    from burnish.train.forecast.estimate import estimate_memory, model_shape
    from burnish.train.forecast.forecast import TOTAL_PEAK_MEMORY
    from burnish.train.run import find_model
    from burnish.train.run import train as train_model

    recipe = resolve(
        train=[DESK / "triage.csv"],
        model=model,
        changes=[
            "data.columns={prompt: text, label: queue}", "data.max_rows=64", "model.dtype=float32",
            f"train.parallel={parallel}", f"train.devices={count if count > 1 else 0}",
            f"train.method={method}", "train.max_steps=2", "train.batch_size=4",
            "train.micro_batch_tokens=128", "train.threads=1", "train.evaluate_every=2",
        ],
    )  # fmt: skip
    need = estimate_memory(
        model_shape(find_model(model), recipe.train.method), recipe.train, "float32"
    ).total
    with tempfile.TemporaryDirectory() as folder:
        report = train_model(recipe, out=Path(folder) / "run")
    found = {quantity["name"]: quantity for quantity in report.forecast}
    alone = found["peak memory"]
    together = found.get(TOTAL_PEAK_MEMORY, alone)
    other = (together["actual"] - alone["actual"]) / (count - 1) if count > 1 else alone["actual"]
    sizes = [need, other, alone["expected"], alone["actual"]]
    sizes += [together["expected"], together["actual"]]
    print(f"| `{method}` | `{parallel}` | {count} | ", end="")
    print(" | ".join(f"{size / 1e9:.2f}" for size in sizes) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a model of this machine")
    parser.add_argument("--method", default="full", help="full or lora")
    parser.add_argument("--count", type=int, default=2, help="processes")
    parser.add_argument("--way", help="train it in this way only, in this process")
    asked = parser.parse_args()
    if asked.way:
        train(asked.model, asked.method, asked.way, asked.count)
    else:
        print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
        print(measured(asked.model, asked.method, "none", 1), flush=True)
        for way in ("ddp", "zero1", "zero2", "zero3"):
            print(measured(asked.model, asked.method, way, asked.count), flush=True)
