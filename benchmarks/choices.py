"""What does it cost to answer with exactly one of many labels? Beside scoring every label.

    python benchmarks/choices.py RUN --questions 24 --json        RUN is a run on BANKING77, alone

`every` reads the question with each of the 77 labels behind it, all in one batch, and takes the
likeliest, as evaluation harnesses do for multiple choice. `ours` searches the tree of labels
(burnish/engines/choices.py), one question at a time (`alone`) and all together (`batch`). All give
the likeliest label; in how many questions they agree is counted.
"""

import argparse
import csv
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from burnish.core.records import Message, Prompt
from burnish.engines.local.choices import encode_choices
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.open import open_local_engine

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "banking77_test.csv"
INSTRUCTION = "Name the intent of the bank customer's message."


@torch.inference_mode()
def likeliest_of_every(engine: LocalEngine, prompt: Prompt) -> str:
    """The likeliest choice: each of them scored whole."""
    asked = list(engine.build_request(prompt).ids)
    choices = encode_choices(
        engine.tokenizer, engine.ends, prompt.choices, engine.build_request(prompt).answer_prefix
    )
    longest = max(map(len, choices))
    rows = [[*asked, *tokens, *[0] * (longest - len(tokens))] for tokens in choices]
    # What is padded comes last and is seen by nothing that counts.
    logits = engine.model(input_ids=torch.tensor(rows), logits_to_keep=longest + 1).logits
    logs = logits[:, :-1].float().log_softmax(-1)
    scores = [
        float(own[range(len(tokens)), tokens].sum())
        for own, tokens in zip(logs, choices, strict=True)
    ]
    return prompt.choices[scores.index(max(scores))]


def measure(engine: LocalEngine, prompts: list[Prompt], batch: int) -> dict[str, Any]:
    """Seconds a question in the three ways, and how often they agree."""
    ways = {
        "every": lambda: [likeliest_of_every(engine, prompt) for prompt in prompts],
        "alone": lambda: [engine.answer([prompt])[0].text for prompt in prompts],
        "batch": lambda: [answer.text for answer in engine.answer(prompts, batch_size=batch)],
    }
    seconds, said = {}, {}
    for name, way in ways.items():
        engine.answer(prompts[:1])
        begun = time.perf_counter()
        said[name] = way()
        seconds[name] = (time.perf_counter() - begun) / len(prompts)
    return {
        "questions": len(prompts),
        "seconds": seconds,
        "ratio": {name: seconds["every"] / seconds[name] for name in ("alone", "batch")},
        "agree": sum(len(set(three)) == 1 for three in zip(*said.values(), strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="a run on BANKING77")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = tuple(sorted({row["category"] for row in rows}))
    drawn = random.Random(3).sample(rows, options.questions)
    prompts = [
        Prompt((Message("system", INSTRUCTION), Message("user", row["text"])), choices=labels)
        for row in drawn
    ]
    found = measure(open_local_engine(options.run), prompts, options.batch)
    if options.json:
        print(json.dumps(found))
        return
    for name, ratio in found["ratio"].items():
        print(f"{name}: {ratio:.1f} times as fast as scoring every label")
    print(f"the same answer: {found['agree']} of {found['questions']}")


if __name__ == "__main__":
    main()
