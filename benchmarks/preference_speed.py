"""Seconds of an epoch of DPO and peak memory beside TRL's DPOTrainer, on the same pairs in one run.

    python benchmarks/preference_speed.py --json

Each side trains in a process of its own, in alternating order, with the same pairs in the same
batches, number format, LoRA settings, first weights and threads. Timed is all that an epoch needs
once the model is loaded: the reference and the steps, by the clock and in processor time, which a
busy machine disturbs less. Pairs are the word problems of `train_speed.py` behind an instruction,
about 160 tokens each, with the right total and a wrong one. The last line is JSON with `--json`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from train_speed import ALPHA, MODEL, RANK, adapter, gap, plain_rows, same_start

RATE, BETA = 5e-5, 0.1
INSTRUCTION = (
    "You work at the help desk of a bicycle hire. Read the message and work out what it costs. "
    "Show each step of the sum on a line of its own, name the unit of every number, take the rates "
    "from the message only, round to whole cents at the very end, and close with a line `Total:`."
)
Seconds = tuple[float, float]


def now() -> Seconds:
    """(clock, processor time)."""
    return time.perf_counter(), time.process_time()


def since(begun: Seconds) -> Seconds:
    """What has gone by on both."""
    clock, processor = now()
    return clock - begun[0], processor - begun[1]


def pairs_of(count: int) -> list[Any]:
    """Long questions, the short right answer, and a wrong one that hedges."""
    from burnish.core.records import Message

    pairs = []
    system = Message("system", INSTRUCTION)
    for number, row in enumerate(plain_rows(count)):
        total = row.answer.splitlines()[-1]
        wrong = Message("assistant", f"I think that it may be about {number * 7 + 3} cents.")
        messages = (system, *row.prompt, Message("assistant", total))
        pairs.append(replace(row, messages=messages, rejected=wrong))
    return pairs


def loaded(arguments: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """Recipe, base model's folder, and the pairs as tokens."""
    from burnish.core.recipe.recipe import make_recipe
    from burnish.models.load import load_tokenizer
    from burnish.models.pull import pull
    from burnish.train.trainers.causal_lm import tokenize_rows

    changes = [
        f"train.batch_size={arguments.batch}", f"train.threads={arguments.threads}",
        f"model.dtype={arguments.dtype}", "train.schedule=constant", "train.warmup_ratio=0",
        f"train.learning_rate={RATE}", f"train.method.rank={RANK}", f"train.method.alpha={ALPHA}",
        "train.objective=dpo", f"train.objective.beta={BETA}",
    ]  # fmt: skip
    recipe, base = make_recipe({"model": {"name": MODEL}}, changes), pull(MODEL)
    pairs = tuple(pairs_of(arguments.steps * arguments.batch))
    return recipe, base, tokenize_rows(pairs, load_tokenizer(base), recipe)


def ours(arguments: argparse.Namespace) -> tuple[list[float], Seconds]:
    """burnish: the reference once, then the steps."""
    from burnish.core.runs import Run
    from burnish.train.adapters.registry import trainable_weights
    from burnish.train.loop.checkpoint import TrainState
    from burnish.train.loop.language_model import train_step
    from burnish.train.rlhf.reference import ReferenceLogprobs
    from burnish.train.trainers.causal_lm import build_language_model

    recipe, base, rows = loaded(arguments)
    plan, losses = build_language_model(recipe, base, rows, []), []
    same_start(trainable_weights(plan.model))
    plan.optimizer.set_weights(
        {name: w.detach().float() for name, w in plan.optimizer.weights.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = now()
        plan = ReferenceLogprobs().before_first_step(plan, Run(Path(folder)), TrainState())
        for step in range(arguments.steps):
            some = plan.rows[step * arguments.batch : (step + 1) * arguments.batch]
            losses.append(train_step(plan, some)["loss"])
            plan.optimizer.clip()
            plan.optimizer.step(step)
        return losses, since(begun)


def trl(arguments: argparse.Namespace) -> tuple[list[float], Seconds]:
    """TRL's DPOTrainer with its defaults, but for what the comparison fixes."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from burnish.models.load import load_model, load_tokenizer

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # the very tokens of the other side

    _, base, rows = loaded(arguments)
    low = arguments.dtype == "bfloat16"
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=load_model(base, torch.bfloat16 if low else torch.float32),
            args=DPOConfig(
                output_dir=folder, max_steps=arguments.steps, use_cpu=True, bf16=low, beta=BETA,
                per_device_train_batch_size=arguments.batch, learning_rate=RATE,
                lr_scheduler_type="constant", weight_decay=0.0, gradient_checkpointing=False,
                logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(_tokens(rows)),
            processing_class=load_tokenizer(base),
            peft_config=adapter(),
        )  # fmt: skip
        same_start({n: p for n, p in trainer.model.named_parameters() if p.requires_grad})
        begun = now()
        trainer.train()
        seconds = since(begun)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], seconds


def _tokens(rows: list[Any]) -> list[dict[str, list[int]]]:
    found = []
    for row in rows:
        chosen, rejected = row.answers
        begin = chosen.weights.index(1.0)
        found.append(
            {
                "prompt_ids": list(chosen.ids[:begin]),
                "chosen_ids": list(chosen.ids[begin:]),
                "rejected_ids": list(rejected.ids[begin:]),
            }
        )
    return found


SIDES: dict[str, Callable[[argparse.Namespace], tuple[list[float], Seconds]]] = {
    "ours": ours,
    "trl": trl,
}


def in_child(side: str) -> dict[str, Any]:
    """Train one side in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=dict(os.environ))
    found: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    print(f"{side:6} {found}", file=sys.stderr)
    return found


def main() -> None:
    """Measure both sides and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--side", choices=sorted(SIDES))
    arguments = parser.parse_args()
    if arguments.side:
        losses, (clock, processor) = SIDES[arguments.side](arguments)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(
            json.dumps(
                {"losses": losses, "clock": clock, "processor": processor, "peak_bytes": peak}
            )
        )
        return
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for number in range(arguments.rounds):
        for side in ("ours", "trl") if number % 2 == 0 else ("trl", "ours"):
            found[side].append(in_child(side))
    seconds = {
        name: {s: statistics.median(m[name] for m in found[s]) for s in found}
        for name in ("clock", "processor")
    }
    memory = {s: max(m["peak_bytes"] for m in found[s]) for s in found}
    result = {
        "speed_ratio": {name: spent["trl"] / spent["ours"] for name, spent in seconds.items()},
        "memory_ratio": memory["ours"] / memory["trl"],
        "loss_max_difference": gap(found["ours"][0]["losses"], found["trl"][0]["losses"]),
        "seconds": seconds,
        "peak_bytes": memory,
        "script": Path(__file__).name,
        "arguments": vars(arguments),
    }
    lines = [f"{name}: {value}" for name, value in result.items()]
    print(json.dumps(result) if arguments.as_json else "\n".join(lines))


if __name__ == "__main__":
    main()
