"""Seconds of a step of distillation from kept lessons beside one of plain fine-tuning, in one run.

    python benchmarks/distill_speed.py --json

Both sides train the starter model with the same rows in the same batches, in one process and in
turns, so that whatever else the machine does hits both. The teacher is the model itself: what a
lesson costs doesn't depend on what it says. Asked once and kept on the disk, the teacher takes no
part in a step; the time of asking it is shown beside. The last line is JSON with `--json`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from train_speed import MODEL, plain_rows


def plan_of(arguments: argparse.Namespace, objective: str) -> Any:
    """A plan ready to fit, and its tokenizer."""
    from transformers import set_seed

    from burnish.core.recipe.recipe import make_recipe
    from burnish.models.load import load_tokenizer
    from burnish.models.pull import pull
    from burnish.train.trainers.causal_lm import build_language_model, tokenize_rows

    base = pull(MODEL)
    changes = [
        f"train.batch_size={arguments.batch}", f"train.threads={arguments.threads}",
        f"train.method={arguments.method}", f"model.dtype={arguments.dtype}",
        f"train.objective.kind={objective}",
    ]  # fmt: skip
    if objective == "distill":
        changes += [
            f"train.objective.teacher={MODEL}", f"train.objective.top_k={arguments.top_k}",
            f"train.objective.temperature={arguments.temperature}",
            f"train.objective.divergence={arguments.divergence}",
        ]  # fmt: skip
    recipe, tokenizer = make_recipe({"model": {"name": MODEL}}, changes), load_tokenizer(base)
    rows = tokenize_rows(tuple(plain_rows(arguments.steps * arguments.batch)), tokenizer, recipe)
    set_seed(0)
    return build_language_model(recipe, base, rows, []), tokenizer


def step(plan: Any, number: int, batch: int) -> tuple[float, float]:
    """Clock and processor seconds of one whole step."""
    from burnish.train.loop.language_model import train_step

    clock, processor = time.perf_counter(), time.process_time()
    train_step(plan, plan.rows[number * batch : (number + 1) * batch])
    plan.optimizer.clip()
    plan.optimizer.step(number)
    return time.perf_counter() - clock, time.process_time() - processor


def head_only(arguments: argparse.Namespace) -> dict[str, Any]:
    """The two losses by themselves, forward and backward: where all of the difference lies.

    256 places, 576 wide, 49,152 tokens, the head frozen: random numbers, no model is needed.
    """
    import torch

    from burnish.core.recipe.objectives import Distillation
    from burnish.train.losses.divergence import LinearDivergence, top_k_logprobs
    from burnish.train.losses.linear import LinearCrossEntropy

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    settings = Distillation(temperature=arguments.temperature, top_k=arguments.top_k)
    hidden = torch.randn(256, 576, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(49152, 576, dtype=torch.bfloat16) * 0.05
    learnt = (torch.randint(0, 49152, (256,)), torch.ones(256))
    lesson = top_k_logprobs(
        (hidden @ head.T).detach().float(), settings.temperature, settings.top_k
    )
    spent: dict[str, list[float]] = {"sft": [], "distill": []}
    for _ in range(arguments.steps):
        begun = time.process_time()
        LinearCrossEntropy.apply(hidden, head, *learnt).backward()
        between = time.process_time()
        LinearDivergence.apply(hidden, head, learnt, lesson, settings)[0].backward()
        spent["sft"].append(between - begun)
        spent["distill"].append(time.process_time() - between)
    seconds = {name: statistics.median(some) for name, some in spent.items()}
    return {"head_ratio": seconds["distill"] / seconds["sft"], "processor_seconds": seconds}


def main() -> None:
    """Measure both and print the ratio of their medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--divergence", default="forward_kl")
    parser.add_argument("--head", action="store_true", help="Only the losses, without a model.")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    if arguments.head:
        print(json.dumps(head_only(arguments)))
        return
    from burnish.train.distillation.teacher_logits import TeacherLogits

    spent: dict[str, list[tuple[float, float]]] = {"sft": [], "distill": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BURNISH_HOME"] = folder
        plain, _ = plan_of(arguments, "sft")
        taught, tokenizer = plan_of(arguments, "distill")
        begun = time.perf_counter()
        taught = TeacherLogits(taught.settings.objective).add_to(taught, tokenizer)
        asking = time.perf_counter() - begun
        kept = sum(file.stat().st_size for file in Path(folder).rglob("*.npy"))
        for plan in (plain, taught):
            step(plan, 0, arguments.batch)  # warms up
        for number in range(arguments.steps):
            sides = [("sft", plain), ("distill", taught)]
            for name, plan in sides if number % 2 == 0 else sides[::-1]:
                spent[name].append(step(plan, number, arguments.batch))
    seconds = {
        name: [statistics.median(side) for side in zip(*found, strict=True)]
        for name, found in spent.items()
    }
    result = {
        "step_ratio": {
            clock: seconds["distill"][place] / seconds["sft"][place]
            for place, clock in enumerate(("clock", "processor"))
        },
        "seconds_a_step": seconds,
        "seconds_to_ask_the_teacher": asking,
        "bytes_of_lessons": kept,
        "script": Path(__file__).name,
        "arguments": vars(arguments),
    }
    lines = [f"{name}: {value}" for name, value in result.items()]
    print(json.dumps(result) if arguments.as_json else "\n".join(lines))


if __name__ == "__main__":
    main()
