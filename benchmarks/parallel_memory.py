"""What fits on which GPUs, by arithmetic; and what two processes need here, measured.

    python benchmarks/parallel_memory.py                    the table for 24 and 80 GB, as Markdown
    python benchmarks/parallel_memory.py --measure MODEL    peaks on this CPU, and the arithmetic

The table is reckoned from shapes that are public (`burnish.train.estimate`), for one pass of 2,048
tokens in bfloat16 with gradient checkpointing; nothing of it was run. Measured is the peak of the
process that leads, over two steps with all weights in float32, of two processes.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DESK = Path(__file__).parents[1] / "examples" / "support-desk"

#: Name → layers, hidden, inner, heads, key heads, vocabulary, tied.
SHAPES = {
    "Llama 3.2 1B": (16, 2048, 8192, 32, 8, 128256, True),
    "Llama 3.2 3B": (28, 3072, 8192, 24, 8, 128256, True),
    "Llama 3.1 8B": (32, 4096, 14336, 32, 8, 128256, False),
    "Qwen 2.5 14B": (48, 5120, 13824, 40, 8, 152064, False),
    "Qwen 2.5 32B": (64, 5120, 27648, 40, 8, 152064, False),
    "Llama 3.1 70B": (80, 8192, 28672, 64, 8, 128256, False),
}
METHODS = {"qlora": ("none",), "lora": ("ddp", "zero3"), "full": ("ddp", "zero1", "zero2", "zero3")}
COUNTS = (1, 2, 4, 8)
CARDS = (24e9, 80e9)

#: The share of a card that a training may fill: the rest is the driver's and the allocator's.
SHARE = 0.9


def config_of(sizes: tuple[Any, ...]) -> Any:
    """The configuration of a Llama of those sizes."""
    from transformers import LlamaConfig

    layers, hidden, inner, heads, keys, vocabulary, tied = sizes
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


def needs(sizes: tuple[Any, ...], method: str, parallel: str) -> list[float]:
    """Bytes on each of 1, 2, 4, 8 devices."""
    from burnish.core.recipe import make_recipe
    from burnish.train import estimate

    estimate._PROCESS = 0  # the table is of GPUs, which hold none of it
    changes = [f"train.method={method}", "train.gradient_checkpointing=true"]
    settings = make_recipe({}, changes).train
    asked = make_recipe({}, ["train.method=lora"]).train.method if method == "qlora" else None
    shape = estimate.shape_from(config_of(sizes), asked or settings.method)
    return [
        estimate.needed_memory(
            shape, settings.model_copy(update={"parallel": parallel, "devices": count}), "bfloat16"
        )
        for count in COUNTS
    ]


def table() -> None:
    """Print GB a device; in bold what fits on 24 GB, in italics what fits on 80 GB only."""
    print("| model | method | `parallel` | " + " | ".join(f"{n} GPU" for n in COUNTS) + " |")
    print("|---|---|---|" + "---|" * len(COUNTS))
    for name, sizes in SHAPES.items():
        for method, stages in METHODS.items():
            for parallel in stages:
                print(f"| {name} | `{method}` | `{parallel}` | ", end="")
                print(" | ".join(map(shown, needs(sizes, method, parallel))) + " |", flush=True)


def shown(need: float) -> str:
    """`**12**` fits the smaller card, `*60*` the larger, `120` neither."""
    stars = 2 if need <= SHARE * CARDS[0] else 1 if need <= SHARE * CARDS[1] else 0
    return f"{'*' * stars}{need / 1e9:.0f}{'*' * stars}"


def measured(model: str, parallel: str) -> str:
    """Train two steps in a process of its own, and say what it says."""
    words = [sys.executable, __file__, "--measure", model, "--way", parallel]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.strip()


def train(model: str, parallel: str) -> None:
    """Print the peak up to the first checkpoint, for which rank 0 gathers everything."""
    from burnish.api import resolve
    from burnish.train.estimate import needed_memory, shape_of
    from burnish.train.memory import peak_memory
    from burnish.train.run import find_model
    from burnish.train.run import train as train_model

    devices = 0 if parallel == "none" else 2
    recipe = resolve(
        train=[DESK / "triage.csv"],
        model=model,
        changes=[
            "data.columns={prompt: text, label: queue}", "data.max_rows=64", "model.dtype=float32",
            f"train.parallel={parallel}", f"train.devices={devices}", "train.method=full",
            "train.max_steps=2", "train.batch_size=4", "train.micro_batch_tokens=128",
            "train.threads=1", "train.evaluate_every=2",
        ],
    )  # fmt: skip
    shape = shape_of(find_model(model), recipe.train.method)
    need = needed_memory(shape, recipe.train, "float32")
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        train_model(recipe, out=Path(folder) / "run", watch=lambda *_: peaks.append(peak_memory()))
    print(f"| `{parallel}` | {need / 1e9:.2f} GB | {peaks[0] / 1e9:.2f} GB |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", metavar="MODEL", help="train MODEL here in each way")
    parser.add_argument("--way", help="train it in this way only, in this process")
    asked = parser.parse_args()
    if asked.way:
        train(asked.measure, asked.way)
    elif asked.measure:
        print("| `parallel` | reckoned | measured |\n|---|---|---|", flush=True)
        for way in ("none", "ddp", "zero1", "zero2", "zero3"):
            print(measured(asked.measure, way), flush=True)
    else:
        table()
