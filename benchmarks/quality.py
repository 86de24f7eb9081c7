"""BANKING77 accuracy after the same training by burnish and by TRL's SFTTrainer.

    python benchmarks/quality.py ../shared/data --steps 150 --questions 300

Both learn the same rows in the same batches, from the same first LoRA weights, with the same rate
and number format, each in a process of its own, as in `train_speed.py`. Both adapters are then put
into the same PEFT model and asked the same test questions by `transformers`' own greedy `generate`:
nothing of burnish's engine has a part in it. Printed are both accuracies, on how many questions
only one side is right, and the p-value of that (McNemar's exact test).
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest

import train_speed
from burnish.core.records import Message, Row
from burnish.models.chat_template import render_prompt
from burnish.models.load import load_model, load_tokenizer
from burnish.models.pull import pull

TASK = Message("system", "Name the intent of the bank customer's message.")
SIDES = ("ours", "trl")
_AT_ONCE = 20


def rows_of(data: Path, part: str, count: int) -> list[Row]:
    """Drawn rows of a split: what the customer writes, and its label."""
    file = data / f"banking77_{part}.csv"
    with file.open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    random.Random(0).shuffle(rows)
    return [
        Row(
            (TASK, Message("user", row["text"]), Message("assistant", row["category"])),
            file=file.name,
            line=number,
        )
        for number, row in enumerate(rows[:count])
    ]


def train(side: str, given: argparse.Namespace) -> None:
    """Train one side in this process, and keep what it has learnt."""
    train_speed.ROWS["banking77"] = lambda count: rows_of(given.data, "train", count)
    wishes = argparse.Namespace(
        **vars(given), rows="banking77", threads=len(os.sched_getaffinity(0)), checkpointing=False,
        compile=False,
    )  # fmt: skip
    weights = train_speed.SIDES[side](wishes)[2]
    save_file({n: w.detach().float().contiguous() for n, w in weights.items()}, given.out)


@torch.no_grad()
def right(weights: dict[str, torch.Tensor], given: argparse.Namespace) -> list[bool]:
    """Which test questions the adapter answers with their label."""
    base = pull(train_speed.MODEL)
    tokenizer = load_tokenizer(base)
    tokenizer.padding_side = "left"
    model: Any = get_peft_model(load_model(base, torch.float32), train_speed.adapter()).eval()
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        own[name].data.copy_(weight)
    rows = rows_of(given.data, "test", given.questions)
    found = []
    for begin in range(0, len(rows), _AT_ONCE):
        some = rows[begin : begin + _AT_ONCE]
        asked = [render_prompt(tokenizer, row.prompt) for row in some]
        batch = tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False)
        said = model.generate(**batch, max_new_tokens=24, do_sample=False)
        texts = tokenizer.batch_decode(
            said[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        found += [text.strip() == row.answer for text, row in zip(texts, some, strict=True)]
    return found


def in_child(side: str, folder: Path) -> dict[str, torch.Tensor]:
    """Train one side in a process of its own."""
    file = folder / f"{side}.safetensors"
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--out", str(file)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=dict(os.environ))
    return load_file(file)


def main() -> None:
    """Train both, ask both, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of banking77_train.csv and _test.csv")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3, help="the learning rate")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="float32")
    parser.add_argument("--side", choices=SIDES, help="train this one only, for --out")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.side:
        train(given.side, given)
        return
    with tempfile.TemporaryDirectory() as folder:
        both = {side: in_child(side, Path(folder)) for side in SIDES}
    apart = max(float((both["ours"][n] - w).abs().max()) for n, w in both["trl"].items())
    answers = {side: right(weights, given) for side, weights in both.items()}
    pairs = list(zip(*answers.values(), strict=True))
    only = [pairs.count((True, False)), pairs.count((False, True))]
    result = {
        "accuracy": {side: sum(some) / len(some) for side, some in answers.items()},
        "only_one_right": only,
        "p_value": float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0,
        "weights_max_difference": apart,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
