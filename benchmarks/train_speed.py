"""Tokens per second and peak memory beside TRL's SFTTrainer, on the same rows in one run.

    python benchmarks/train_speed.py --json

Each side trains in a process of its own (so that the peak is its own), in alternating order, with
the same rows in the same batches, number format, LoRA settings and first weights, threads and
environment. The first step of a side warms up and is not timed. A plain float32 loop with
`transformers` and `peft` says what the losses should be. Two kinds of rows, one after the other:
`plain` rows are made here, about 200 tokens each, with nothing in common but the chat template's
default system message; `shared` rows are the example project's tickets, short, each behind the
same two pages of the handbook as a system message, as most fine-tunes have it. Tokens are counted
as the rows have them, whether a side computes the shared ones once or for each row. `utilisation`
is the share of the machine's own rate of matrix products, taken in the same process, that plain
rows' steps reach: 4 operations a token and frozen weight (forward, and back to the activations), 6
a weight of the adapters, the vocabulary only where a token is learnt; attention isn't counted. The
last line is JSON with `--json`.
"""

import argparse
import csv
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
RANK, ALPHA = 16, 32
DESK = Path(__file__).parents[1] / "examples" / "support-desk"
Losses = list[float]
#: Losses and seconds of the steps, and what was learnt, by name.
Trained = tuple[Losses, list[float], dict[str, Any]]


def shared_rows(count: int) -> list[Any]:
    """Tickets and their queues, all behind the same two pages."""
    from burnish.core.records import Message, Row

    pages = [(DESK / "handbook" / f"{name}.md").read_text() for name in ("desks", "safety")]
    page = Message("system", "\n".join(pages))
    with (DESK / "triage.csv").open(encoding="utf-8") as file:
        tickets = list(csv.DictReader(file))
    return [
        Row(
            (page, Message("user", ticket["text"]), Message("assistant", ticket["queue"])),
            file="triage.csv",
            line=number + 1,
        )
        for number, ticket in enumerate(itertools.islice(itertools.cycle(tickets), count))
    ]


def plain_rows(count: int) -> list[Any]:
    """Word problems with their worked answers, each of other length."""
    from burnish.core.records import Message, Row

    draw = random.Random(0)
    names = [
        "Anna",
        "Boris",
        "Chen",
        "Dora",
        "Emil",
        "Fatma",
        "Goran",
        "Hana",
        "Igor",
        "Jana",
        "Karim",
        "Lena",
        "Milo",
        "Nora",
    ]
    things = [
        "bicycles",
        "helmets",
        "locks",
        "trailers",
        "lamps",
        "baskets",
        "pumps",
        "saddles",
        "gloves",
        "maps",
    ]
    rows = []
    for number in range(count):
        orders = [
            (draw.choice(names), draw.randint(2, 40), draw.choice(things), draw.randint(3, 99))
            for _ in range(draw.randint(2, 5))
        ]
        question = " ".join(
            f"{who} hires {n} {what} for {price} cents an hour each."
            for who, n, what, price in orders
        )
        steps = "\n".join(
            f"{who}: {n} {what} at {price} cents make {n * price} cents an hour."
            for who, n, what, price in orders
        )
        total = sum(n * price for _, n, _, price in orders)
        asked = Message("user", f"{question} What do they pay together in an hour?")
        answer = Message("assistant", f"{steps}\nTogether that is {total} cents.\nTotal: {total}")
        rows.append(Row((asked, answer), file="made", line=number + 1))
    return rows


ROWS: dict[str, Callable[[int], list[Any]]] = {"plain": plain_rows, "shared": shared_rows}


def same_start(weights: dict[str, Any]) -> None:
    """The same first adapter for every side."""
    import torch

    for number, name in enumerate(sorted(weights)):
        if "lora_A" in name:
            torch.manual_seed(number)
            exact = torch.randn(weights[name].shape) / weights[name].shape[1] ** 0.5
            weights[name].data.copy_(exact)


def adapter() -> Any:
    """What PEFT is to train."""
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")


def loaded(arguments: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """Base model's folder, tokenizer, and the rows as tokens."""
    from burnish.models.chat_template import encode_row
    from burnish.models.load import load_tokenizer
    from burnish.models.pull import pull

    base = pull(MODEL)
    tokenizer = load_tokenizer(base)
    rows = ROWS[arguments.rows](arguments.steps * arguments.batch)
    return base, tokenizer, [encode_row(tokenizer, row, 1024) for row in rows]


def ours(arguments: argparse.Namespace) -> Trained:
    """burnish: its own loop, batches, layers and optimizer."""
    from burnish.core.recipe.recipe import make_recipe
    from burnish.train.adapters.registry import trainable_weights
    from burnish.train.batching.micro_batches import trim_to_target
    from burnish.train.loop.language_model import train_step
    from burnish.train.trainers.causal_lm import build_language_model

    base, _, rows = loaded(arguments)
    changes = [
        f"train.batch_size={arguments.batch}", f"train.threads={arguments.threads}",
        f"model.dtype={arguments.dtype}", "train.schedule=constant", "train.warmup_ratio=0",
        f"train.learning_rate={arguments.rate}", f"train.method.rank={RANK}",
        f"train.method.alpha={ALPHA}",
        f"train.gradient_checkpointing={str(arguments.checkpointing).lower()}",
        f"train.compile={str(arguments.compile).lower()}",
    ]  # fmt: skip
    plan = build_language_model(make_recipe({"model": {"name": MODEL}}, changes), base, rows, [])
    same_start(trainable_weights(plan.model))
    plan.optimizer.set_weights(
        {name: w.detach().float() for name, w in plan.optimizer.weights.items()}
    )
    losses, seconds = [], []
    for step in range(arguments.steps):
        begun = time.perf_counter()
        some = [
            trim_to_target(row)
            for row in rows[step * arguments.batch : (step + 1) * arguments.batch]
        ]
        losses.append(train_step(plan, some)["loss"])
        plan.optimizer.clip()
        plan.optimizer.step(step)
        seconds.append(time.perf_counter() - begun)
    return losses, seconds, trainable_weights(plan.model)


def trl(arguments: argparse.Namespace) -> Trained:
    """TRL's SFTTrainer with its defaults, but for what the comparison fixes."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from burnish.models.load import load_model

    base, tokenizer, rows = loaded(arguments)
    torch.set_num_threads(arguments.threads)
    losses, ends = [], []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    learnt = [
        {"input_ids": list(row.ids), "completion_mask": [int(w > 0) for w in row.weights]}
        for row in rows
    ]
    low = arguments.dtype == "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=load_model(base, torch.bfloat16 if low else torch.float32),
            args=SFTConfig(
                output_dir=folder, max_steps=arguments.steps, use_cpu=True, bf16=low,
                per_device_train_batch_size=arguments.batch, completion_only_loss=True,
                learning_rate=arguments.rate, lr_scheduler_type="constant", weight_decay=0.0,
                gradient_checkpointing=arguments.checkpointing, logging_steps=1, report_to=[],
                save_strategy="no", disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(learnt),
            processing_class=tokenizer,
            peft_config=adapter(),
            callbacks=[Watch()],
        )  # fmt: skip
        weights = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
        same_start(weights)
        trainer.train()
    return losses, [end - begin for begin, end in itertools.pairwise(ends)], weights


def reference(arguments: argparse.Namespace) -> Trained:
    """A plain float32 loop, row by row, with all logits: what the losses should be."""
    import torch
    from peft import get_peft_model

    from burnish.models.load import load_model

    base, _, rows = loaded(arguments)
    torch.set_num_threads(arguments.threads)
    model: Any = get_peft_model(load_model(base, torch.float32), adapter())
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    same_start(weights)
    adamw = torch.optim.AdamW(weights.values(), lr=arguments.rate, weight_decay=0.0)
    losses, seconds = [], []
    for step in range(arguments.steps):
        begun = time.perf_counter()
        some = rows[step * arguments.batch : (step + 1) * arguments.batch]
        learnt, total = sum(row.target_count for row in some), 0.0
        for row in some:
            logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(
                logits, torch.tensor(row.ids[1:]), reduction="none"
            )
            loss = (each * torch.tensor(row.weights[1:])).sum() / learnt
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        adamw.step()
        adamw.zero_grad()
        losses.append(total)
        seconds.append(time.perf_counter() - begun)
    return losses, seconds, weights


SIDES: dict[str, Callable[[argparse.Namespace], Trained]] = {
    "ours": ours,
    "trl": trl,
    "reference": reference,
}


def measure(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one side in this process."""
    losses, seconds, _ = SIDES[side](arguments)
    lengths = [len(row.ids) for row in loaded(arguments)[2]]
    size = arguments.batch
    tokens = [sum(lengths[i * size : (i + 1) * size]) for i in range(arguments.steps)]
    share = (
        utilisation(arguments, seconds) if side == "ours" and arguments.rows == "plain" else None
    )
    return {
        "side": side,
        "losses": losses,
        "seconds": seconds,
        "utilisation": share,
        "tokens_per_second": sum(tokens[1:]) / sum(seconds[1:]),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "row_tokens": statistics.mean(lengths),
    }


def utilisation(arguments: argparse.Namespace, seconds: list[float]) -> float:
    """The share of the measured rate of matrix products that our steps after the first reached."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    base, _, rows = loaded(arguments)
    config = AutoConfig.from_pretrained(base.path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = [m for n, m in model.named_modules() if type(m) is torch.nn.Linear and "head" not in n]
    frozen = sum(layer.weight.numel() for layer in layers)
    adapters = RANK * sum(layer.in_features + layer.out_features for layer in layers)
    timed = rows[arguments.batch :]
    tokens, learnt = sum(len(row.ids) for row in timed), sum(row.target_count for row in timed)
    vocabulary = 4 * config.vocab_size * config.hidden_size
    work = tokens * (4 * frozen + 6 * adapters) + learnt * vocabulary
    rate = product_rate(1024, config.hidden_size, config.intermediate_size, arguments.dtype)
    return work / sum(seconds[1:]) / rate


def product_rate(rows: int, inner: int, columns: int, dtype: str) -> float:
    """Operations a second of one product of these sizes: the median of 30."""
    import torch

    left = torch.randn(rows, inner).to(getattr(torch, dtype))
    right = torch.randn(columns, inner).to(getattr(torch, dtype))
    spent = []
    for _ in range(33):
        begun = time.perf_counter()
        left @ right.T
        spent.append(time.perf_counter() - begun)
    return 2 * rows * inner * columns / statistics.median(spent[3:])


def in_child(side: str, rows: str) -> dict[str, Any]:
    """Train one side in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--rows", rows]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=dict(os.environ))
    found: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    print(
        f"{side:9} {rows:6} {found['tokens_per_second']:7.1f} tokens/s "
        f"{found['peak_bytes'] / 1e9:5.2f} GB  losses {[round(x, 4) for x in found['losses']]}",
        file=sys.stderr,
    )
    return found


def beside(rows: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides on one kind of rows, in alternating order, and the reference once."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for number in range(arguments.rounds):
        for side in ("ours", "trl") if number % 2 == 0 else ("trl", "ours"):
            found[side].append(in_child(side, rows))
    truth = in_child("reference", rows)["losses"]
    speed = {s: statistics.median(m["tokens_per_second"] for m in found[s]) for s in found}
    memory = {s: max(m["peak_bytes"] for m in found[s]) for s in found}
    return {
        "speed_ratio": speed["ours"] / speed["trl"],
        "memory_ratio": memory["ours"] / memory["trl"],
        "loss_max_difference": gap(found["ours"][0]["losses"], truth),
        "trl_loss_max_difference": gap(found["trl"][0]["losses"], truth),
        "tokens_per_second": speed,
        "peak_bytes": memory,
        "row_tokens": found["ours"][0]["row_tokens"],
        "utilisation": found["ours"][0]["utilisation"],
    }


def gap(one: Losses, other: Losses) -> float:
    """The largest difference of two series of losses."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Measure all sides and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=5e-4, help="the learning rate")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--rows", choices=sorted(ROWS), help="only this kind")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="our layers compiled")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--side", choices=sorted(SIDES))
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments)))
        return
    kinds = [arguments.rows] if arguments.rows else list(ROWS)
    result = {"script": Path(__file__).name, "arguments": vars(arguments)}
    for rows in kinds:
        prefix = "" if rows == "plain" else "prefix_"
        result |= {f"{prefix}{name}": value for name, value in beside(rows, arguments).items()}
    lines = [f"{name}: {value}" for name, value in result.items()]
    print(json.dumps(result) if arguments.as_json else "\n".join(lines))


if __name__ == "__main__":
    main()
