"""Every format of a fine-tuned run: size, the metric with its interval, speed, memory.

    python benchmarks/exports.py RUN [--rows 300] [--formats gguf:q8_0 merged:bf16 ...]

Each is written, opened by the engine that will serve it, and asked over HTTP. The trained model is
asked once. Answers freely and, for a classification, held to the labels.
"""

import argparse
import json
import tempfile
from pathlib import Path

from burnish.core.progress import LineReporter, set_reporter
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import find_run
from burnish.core.stats import wilson_interval
from burnish.engines.local.open import open_local_engine
from burnish.export.formats.registry import write_export
from burnish.export.parity.questions import ask_trained, make_questions
from burnish.export.run import ExportResult, run_gate
from burnish.models.artifact import open_artifact

FORMATS = (
    "merged:bf16", "gguf:f16", "gguf:q8_0", "gguf:q6_k", "gguf:q5_k_m", "gguf:q5_0",
    "gguf:q4_k_m", "gguf:q4_1", "gguf:q4_0",
)  # fmt: skip
HEADS = (
    "format", "MB", "accuracy free (95%)", "held to labels", "loss at most", "same answers",
    "p50 ms", "p95 ms", "tokens/s", "memory MB", "ships",
)  # fmt: skip


def row(name: str, done: ExportResult) -> tuple[str, ...]:
    facts = done.parity.facts
    free, held = facts["changes"]["free"], facts["changes"].get("labels_only")
    low_high = wilson_interval([1] * round(free["exported"] * free["n"]) + [0] * round(
        (1 - free["exported"]) * free["n"]
    ))  # fmt: skip
    file = done.artifact.lineage["export"]["file"]
    size = sum(part.stat().st_size for part in done.artifact.path.glob(f"{Path(file).stem}*"))
    speed = facts["speed"]
    return (
        name,
        f"{size / 1e6:.0f}",
        f"{free['exported']:.1%} ({low_high.low:.1%} to {low_high.high:.1%})",
        f"{held['exported']:.1%}" if held else "",
        f"{100 * free['loss_at_most']:.1f}",
        f"{facts['same_answers']}/{facts['rows']}",
        f"{1000 * speed['p50_s']:.0f}",
        f"{1000 * speed['p95_s']:.0f}",
        f"{speed['tokens_per_s']:.0f}",
        f"{speed['memory_bytes'] / 1e6:.0f}",
        "yes" if done.parity.shippable else "no",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    set_reporter(LineReporter(30))
    run = find_run(given.run)
    changes = [f"export.rows={given.rows}", f"export.threads={given.threads}"]
    recipe = make_recipe(run.recipe.model_dump(mode="json"), changes)
    artifact = open_artifact(run.artifact)
    asked = make_questions(recipe, artifact)
    trained = ask_trained(open_local_engine(str(run.path)), asked)
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.formats:
            to, quant = name.split(":")
            written = write_export(Path(folder) / name.replace(":", "-"), artifact, to, quant)
            done = run_gate(written, asked, trained, recipe)
            print("| " + " | ".join(row(name, done)) + " |", flush=True)
            print(json.dumps(done.parity.as_dict()["against"]), flush=True)


if __name__ == "__main__":
    main()
