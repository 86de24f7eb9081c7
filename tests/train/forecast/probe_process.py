"""Rehearse a run of the tiny model in a process of its own, whose memory nothing else has used.

python -m tests.train.forecast.probe_process MICRO_BATCH_TOKENS FOLDER   (the probe comes as JSON)
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import set_seed

from burnish.core.recipe.recipe import make_recipe
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model
from burnish.train.forecast.probe import probe
from burnish.train.trainers.causal_lm import build_language_model, tokenize_rows
from tests.fixtures.training import make_rows

LONG = "red green blue " * 60


def main(tokens: str, folder: str) -> None:
    """64 rows of up to 900 tokens in one step."""
    torch.set_num_threads(1)
    tiny = find_model("tiny")
    recipe = make_recipe(
        {"model": {"name": "tiny", "dtype": "float32"}},
        ["train.batch_size=64", f"train.micro_batch_tokens={tokens}"],
    )
    rows = tokenize_rows(make_rows(64, system=LONG, longest=400), load_tokenizer(tiny), recipe)
    set_seed(0)
    print(json.dumps(asdict(probe(build_language_model(recipe, tiny, rows, []), Path(folder)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
