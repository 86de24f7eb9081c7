"""Does `compare` ship what is no better, and find what is? Planted truths, many times over.

    python benchmarks/planted_null.py                 simulated routes: about a minute
    python benchmarks/planted_null.py --runs 5        and real comparisons with a small model

Simulated: scores of three routes whose true rates are known, judged as `compare` judges. Real: a
small random model, rows whose labels mean nothing (shuffled) or are learnable, whole comparisons
with training; each run draws other rows. `--model NAME` takes a pulled model instead (slow).
Unequal groups, skewed scores, copies, repeated looks and the search of formats: hard_nulls.py.
"""

import argparse
import json
import math
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

from burnish.compare.verdict import decide
from burnish.core.recipe.compare import Compare
from burnish.core.records import Prediction, Scores, clusters_of
from burnish.core.stats import mean_interval, rows_needed, wilson_interval

NAMES = ("base", "few_shot", "fine_tuned")
#: What is planted: true accuracy of each route, least gain asked for, questions.
NULLS = {
    "all equal": ((0.5, 0.5, 0.5), 0.0, 200),
    "few-shot as good": ((0.3, 0.6, 0.6), 0.0, 200),
    "prompt as good": ((0.6, 0.3, 0.6), 0.0, 200),
    "few errors": ((0.85, 0.93, 0.93), 0.0, 200),
    "few questions": ((0.5, 0.6, 0.6), 0.0, 30),
    "all equal, usual settings": ((0.5, 0.5, 0.5), 0.02, 200),
}
SIZES = (5, 10, 20)
GAINS = {"+6 points": 0.06, "+10 points": 0.10, "+20 points": 0.20}


def route(values: Sequence[float], size: int = 1) -> Scores:
    """A route with these scores, one a question; so many questions of each conversation."""
    numbers = [float(value) for value in values]
    predictions = [
        Prediction(str(n), "", "", "", v, 1, 1, 0.0, group=str(n // size) if size > 1 else "")
        for n, v in enumerate(numbers)
    ]
    return Scores("accuracy", predictions, mean_interval(numbers, clusters_of(predictions)))


def draw(
    rng: np.random.Generator, rates: Sequence[float], n: int, size: int = 1, is_known: bool = True
) -> dict[str, Scores]:
    """Answers of routes with these true rates; half of what makes a question hard is shared. Of
    the other half, which is a route's own, half is that of the conversation, if it has more
    questions than one."""
    shared, own = rng.normal(size=n), rng.normal(size=(len(rates), n))
    if size > 1:
        leaning = rng.normal(size=(len(rates), n // size)).repeat(size, axis=1)
        own = (own + leaning) / math.sqrt(2)
    marks = (shared + own) / math.sqrt(2)
    return {
        name: route(mark > norm.isf(rate), size if is_known else 1)
        for name, mark, rate in zip(NAMES[-len(rates) :], marks, rates, strict=True)
    }


def simulate(draws: int, seed: int) -> None:
    """Print how often each decision falls for every planted truth."""
    rng = np.random.default_rng(seed)
    print(f"{draws} simulated comparisons each; 95% intervals\n")
    print("no gain planted           ship                     dont_fine_tune  not_enough")
    for name, (rates, least, n) in NULLS.items():
        settings = Compare(least_gain=least)
        seen = Counter(decide(draw(rng, rates, n), settings).decision for _ in range(draws))
        print(
            f"{name:<25} {share(seen['ship'], draws):<24} "
            f"{seen['dont_fine_tune'] / draws:<15.1%} {seen['not_enough_evidence'] / draws:.1%}"
        )
    print("\nno gain, 200 questions    ship, of conversations   ship, taken as independent")
    for size in SIZES:
        rates, least, n = NULLS["few-shot as good"]
        told = [f"{size} of each conversation".ljust(25)]
        for is_known in (True, False):
            shipped = sum(
                decide(draw(rng, rates, n, size, is_known), Compare(least_gain=least)).decision
                == "ship"
                for _ in range(draws)
            )
            told.append(share(shipped, draws).ljust(24))
        print(" ".join(told))
    print("\ngain planted              questions  ship                     dont_fine_tune")
    for name, gain in GAINS.items():
        pilot = draw(rng, (0.6, 0.6 + gain), 4000)
        base, ours = pilot.values()
        n = rows_needed(ours.values, base.values, gain, Compare().alpha / 2)
        rates = (0.4, 0.6, 0.6 + gain)
        seen = Counter(decide(draw(rng, rates, n), Compare()).decision for _ in range(draws))
        print(
            f"{name:<25} {n:<10} {share(seen['ship'], draws):<24} "
            f"{seen['dont_fine_tune'] / draws:.1%}"
        )


def share(count: int, draws: int) -> str:
    """`4.1% (3.3% to 5.1%)`."""
    found = wilson_interval([1.0] * count + [0.0] * (draws - count))
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"


def rows(rng: random.Random, count: int, shuffled: bool) -> list[dict[str, str]]:
    """Texts of three kinds with a label; one that means nothing if shuffled."""
    kinds = {"delivery": "parcel arrived send", "refund": "money lamp refund", "account": "login"}
    fillers = ("apple", "pear", "plum", "red", "green", "blue", "one", "two", "three", "four")
    found = []
    for _ in range(count):
        label = rng.choice(sorted(kinds))
        text = " ".join([rng.choice(kinds[label].split()), *rng.choices(fillers, k=7)])
        found.append({"text": text, "label": rng.choice(sorted(kinds)) if shuffled else label})
    return found


def real(runs: int, model: str | None, folder: Path) -> None:
    """Whole comparisons, training included."""
    from burnish.compare.run import compare
    from burnish.core.recipe.recipe import make_recipe

    name = model or tiny_model(folder / "models")
    print(f"\n{runs} real comparisons each, model {model or 'tiny (random weights)'}, 60 questions")
    for shuffled in (True, False):
        seen: Counter[str] = Counter()
        gains, begun = [], time.time()
        for number in range(runs):
            os.environ["BURNISH_HOME"] = str(folder / f"home-{shuffled}-{number}")
            rng = random.Random(1000 * shuffled + number)
            files = {}
            for part, count in (("train", 90), ("test", 60)):
                file = folder / f"{part}-{shuffled}-{number}.jsonl"
                lines = (json.dumps(row) + "\n" for row in rows(rng, count, shuffled))
                file.write_text("".join(lines))
                files[part] = [str(file)]
            recipe = make_recipe(
                {"model": {"name": name}, "data": {**files, "near_duplicate": 1.0}},
                [
                    "train.epochs=4",
                    "train.batch_size=8",
                    "compare.shots=3",
                    "compare.forgetting=false",
                    f"train.learning_rate={'1e-3' if model else '1e-2'}",
                ],
            )
            verdict = compare(recipe).verdict
            seen[verdict.decision] += 1
            gains.append(verdict.gain.gain.value if verdict.gain else 0.0)
        kind = "labels that mean nothing" if shuffled else "labels that can be learnt"
        print(
            f"{kind:<26} {dict(seen)}, mean gain {100 * np.mean(gains):+.1f} points, "
            f"{(time.time() - begun) / runs:.1f} s a run"
        )


def tiny_model(folder: Path) -> str:
    """A model of 2 layers with random weights and a byte tokenizer, found by its name."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from burnish.models.local_models import write_manifest

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    signs = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={sign: n for n, sign in enumerate(signs)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(signs),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            eos_token_id=2,
            pad_token_id=0,
            bos_token_id=None,
            initializer_range=0.2,
        )
    )
    model.save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    facts = {
        "name": "tiny",
        "kind": "causal",
        "licence": "none",
        "context_length": 2048,
        "has_template": True,
        "source": "random",
    }
    write_manifest(folder / "tiny", facts)
    os.environ["BURNISH_MODELS"] = str(folder)
    return "tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="simulated comparisons each")
    parser.add_argument("--runs", type=int, default=0, help="real comparisons of each kind")
    parser.add_argument("--model", help="a pulled model for the real ones, instead of a tiny one")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    simulate(given.draws, given.seed)
    if given.runs:
        with tempfile.TemporaryDirectory() as folder:
            real(given.runs, given.model, Path(folder))


if __name__ == "__main__":
    main()
